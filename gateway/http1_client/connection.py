"""One connection to a server: a request at a time, each with the time that its answer may take."""

import asyncio
from collections.abc import Sequence
from typing import cast

from gateway.http1.deadline import Deadline
from gateway.http1_client.faults import BrokenOff
from gateway.http1_client.response import Response

_REFUSED = 400  # the least status of a refusal
_LARGE = 64 * 2**10  # bytes


class Pool:
    """The connections to one server, and those of them that wait for a request, each for `keep_alive` seconds."""

    def __init__(self, keep_alive: float) -> None:
        self.keep_alive = keep_alive
        self.connections: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # whichever was used last comes last

    def take(self) -> "Connection | None":
        """One that a request can be sent on at once."""
        while self.idle:
            connection, _ = self.idle.popitem()
            if not connection.is_closing:
                return connection
        return None

    def close(self) -> None:
        """Ends all of them, whatever is under way."""
        for connection in [*self.connections]:
            connection.abort()


class Connection(asyncio.Protocol):
    """A connection, which goes back into its pool when a request has been answered on it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop, self._be_late)
        self._response: Response | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._is_encrypted = transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; what nobody asked for belongs to none."""
        if self._response is None:
            self.abort()
        else:
            self._response.arrived(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has gone, or we have."""
        self._deadline.end()
        self._pool.idle.pop(self, None)
        self._pool.connections.discard(self)
        response, self._response = self._response, None
        if response is not None:
            response.ended(in_order=exc is None)

    # What its client asks

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be asked on it any more."""
        return self._transport.is_closing()

    def ask(self, request: Sequence[bytes], seconds: float) -> Response:
        """Sends a request, whose answer may take so many seconds."""
        # Only now: uvloop does not tell of the end of one whose dialling was broken off.
        self._pool.connections.add(self)
        response = self._response = Response(self, self._loop)
        # TLS does not tell what it still has to send, and a refusal may come before all of a large body is.
        self._is_hidden = self._is_encrypted and sum(map(len, request)) > _LARGE
        self._deadline.expect(seconds)
        self._transport.writelines(request)
        return response

    def abort(self) -> None:
        """Ends it at once, whatever is under way."""
        response, self._response = self._response, None
        self._transport.abort()
        if response is not None:
            response.failed(BrokenOff)

    # What a response asks

    def pause_reading(self) -> None:
        """No more is read until `resume_reading`."""
        if not self.is_closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reading goes on."""
        if not self.is_closing:
            self._transport.resume_reading()

    def answered(self, *, keeps: bool) -> None:
        """Another request may follow, unless some of this one was still to be sent."""
        response, self._response = self._response, None
        is_refused = response is not None and response.status >= _REFUSED
        is_sent = not self._transport.get_write_buffer_size() and not (is_refused and self._is_hidden)
        if keeps and is_sent and self._pool.keep_alive and not self.is_closing:
            self._pool.idle[self] = None
            self._deadline.expect(self._pool.keep_alive)
        else:
            self.abort()

    def _be_late(self) -> None:
        if self._response is None:
            self.abort()
        else:
            self._response.failed(TimeoutError)
