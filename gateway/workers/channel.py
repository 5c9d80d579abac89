"""Frames on the socket between the owner and one worker."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from gateway.workers.messages import HEAD, MOST_FRAME, Message, framed

log = logging.getLogger(__name__)


class Channel(asyncio.Protocol):
    """One end. `heard` is given each frame; `lost` is called when the other end is gone or has sent what is none."""

    def __init__(self, heard: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, end: socket.socket, heard: Callable[[bytes], None], lost: Callable[[], None]) -> "Channel":
        """A channel on that socket, which it closes in the end."""
        _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: cls(heard, lost), sock=end)
        return channel

    def send(self, message: Message) -> None:
        """Sends a message, after those sent before; nothing once the other end is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(message))

    @property
    def unsent(self) -> int:
        """The bytes that the other end has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Sends what is left to send, and ends."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of the protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Part of the protocol."""
        self._unread += data
        while len(self._unread) >= HEAD:
            size = int.from_bytes(self._unread[:HEAD], "big")
            if size > MOST_FRAME:
                self._abort("a frame that is too large")
                return
            if len(self._unread) < HEAD + size:
                return
            frame = bytes(self._unread[HEAD : HEAD + size])
            del self._unread[: HEAD + size]
            self._heard(frame)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is all the same why
        """Part of the protocol."""
        self._lost()

    def _abort(self, why: str) -> None:
        log.error("the channel between owner and worker had %s, and is closed", why)
        self._unread.clear()
        if self._transport is not None:
            self._transport.abort()
