"""From an answer's chunks to server-sent events, with heartbeats while nothing comes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from gateway import wire
from gateway.errors import GatewayError, InternalError, envelope
from gateway.wire import Chunk

log = logging.getLogger(__name__)


async def opened(chunks: AsyncGenerator[Chunk, None], *, patience: float) -> "asyncio.Task[Chunk | None]":
    """The task that brings the first chunk, once it has, or after `patience` seconds in any case.

    Until then nothing is sent, so that an error still has a status of its own.

    Raises:
        GatewayError: the answer failed before its first chunk.
    """
    first: asyncio.Task[Chunk | None] = asyncio.ensure_future(_next(chunks))
    try:
        await asyncio.wait({first}, timeout=patience)
        if first.done():
            first.result()
    except BaseException:
        await _closed(first, chunks)
        raise
    return first


async def events(
    first: "asyncio.Task[Chunk | None]",
    chunks: AsyncGenerator[Chunk, None],
    *,
    heartbeat: float,
    failed: Callable[[GatewayError], None],
) -> AsyncGenerator[bytes, None]:
    """Every chunk as an event, a comment after each `heartbeat` seconds of silence, `[DONE]` at the end.

    An error in the middle is an event too: the status has been sent, nothing else can tell it. `failed` is told of it.
    """
    step = first
    try:
        while True:
            await asyncio.wait({step}, timeout=heartbeat)
            if not step.done():
                yield wire.HEARTBEAT
                continue
            chunk = step.result()
            if chunk is None:
                break
            yield wire.event(chunk)
            step = asyncio.ensure_future(_next(chunks))
    except GatewayError as error:
        failed(error)
        yield wire.event(envelope(error))
    except Exception:  # the stream must end in a way that the client understands, whatever went wrong
        log.exception("a stream failed")
        fault = InternalError("Something went wrong on our side. The log has the details.")
        failed(fault)
        yield wire.event(envelope(fault))
    finally:
        await _closed(step, chunks)
    yield wire.DONE


async def _next(chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
    return await anext(chunks, None)


async def _closed(step: "asyncio.Task[Chunk | None]", chunks: AsyncGenerator[Chunk, None]) -> None:
    """Ends the work behind the chunks, wherever it stands."""
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    await chunks.aclose()
