"""From an answer's chunks to server-sent events, with heartbeats while nothing comes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from gateway import wire
from gateway.errors import GatewayError, InternalError, envelope
from gateway.wire import Chunk

log = logging.getLogger(__name__)

Send = Callable[[bytes], Awaitable[None]]
"""Sends a piece of a stream to the client; the first one with the stream's beginning."""


async def tell(
    chunks: AsyncGenerator[Chunk, None], send: Send, *, heartbeat: float, failed: Callable[[GatewayError], None]
) -> None:
    """Sends every chunk as an event, and a comment after each `heartbeat` seconds of silence; what is left is the end.

    Nothing is sent before the first chunk or the first heartbeat, so that until then an error has a status of its own.
    Afterwards it is an event as well, since nothing else can tell it, and `failed` is told of it.

    Raises:
        GatewayError: the answer failed before anything was sent.
    """
    stream = _Stream(send)
    beating = asyncio.create_task(stream.beat(heartbeat))
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                await stream.send(wire.event(chunk))
    except Exception as error:
        if not stream.begun:
            raise
        ours = _ours(error)
        failed(ours)
        await stream.send(wire.event(envelope(ours)))
    finally:
        beating.cancel()


class _Stream:
    """What was sent, one piece after the other, and when the last one was."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self.begun = False

    async def send(self, piece: bytes) -> None:
        """Sends a piece."""
        self.begun = True
        async with self._turn:
            await self._send(piece)
            self._last = self._clock()

    async def beat(self, every: float) -> None:
        """Fills silences of so many seconds, without an end."""
        while True:
            left = self._last + every - self._clock()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self.send(wire.HEARTBEAT)


def _ours(error: Exception) -> GatewayError:
    """The stream must end in a way that the client understands, whatever went wrong."""
    if isinstance(error, GatewayError):
        return error
    log.error("a stream failed", exc_info=error)
    return InternalError("Something went wrong on our side. The log has the details.")
