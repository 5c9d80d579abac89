"""One client's connection: its requests one after the other, each step with a deadline.

A connection is in one of these states; what is late ends it, and how stands behind.

    waiting     no byte of a request has come yet        closed without a word
    beginning   a part of a request's head is here       408
    receiving   the request's body is still coming       408, by the application
    answering   the request is all here                  the client must take its answer: else it counts as gone
    lingering   answered, but the client still sends     what comes is thrown away for a while, and then it is closed

Closing at once while a client still sends would reset the connection, and the reset could overtake the answer.
"""

import asyncio
import logging
import uuid
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from gateway.errors import GatewayError, MalformedRequest, Overloaded, RequestTimeout
from gateway.http1 import exchange as exchanges
from gateway.http1.exchange import Exchange, Headers
from gateway.http1.head import MAX_HEAD, Head, read
from gateway.http1.lobby import Lobby

log = logging.getLogger("gateway.access")

HEAD_TIMEOUT = 10.0  # seconds, from the connection or from a request's first byte on
LONGEST_STALL = 30.0  # seconds in which a client takes nothing of its answer
LINGER = 5.0  # seconds
MOST_LINGERING = 32 * 2**20  # bytes
MOST_AHEAD = 64 * 2**10  # bytes of requests that come before the one ahead of them is answered
WASTE = 8  # bytes of framing for each of a chunked body, beyond what a head may take
DRAIN_GRACE = 1.0  # seconds in which a client that has just used its connection may be about to use it again

_NEVER = float("inf")


class Connection(asyncio.Protocol):
    """A connection, in the hands of uvicorn's server, which makes it, and tells it to shut down."""

    def __init__(
        self,
        lobby: Lobby,
        *,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._lobby = lobby
        self._app = cast("exchanges.Application", config.loaded_app)
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._unread = b""
        self._exchange: Exchange | None = None
        self._incoming: Head | None = None  # the request whose body is still coming
        self._left = 0  # bytes of it, unless it comes in chunks
        self._waste = 0  # bytes of it so far that were framing
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._since = self._loop.time()
        self._has_begun = True
        self._is_deaf = self._is_reading_paused = self._is_draining = self._is_lingering = False
        self._room: asyncio.Event | None = None

    # What the server and the transport call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast("asyncio.Transport", transport)
        self._server.connections.add(cast("Any", self))
        address = {"server": transport.get_extra_info("sockname"), "client": transport.get_extra_info("peername")}
        self._common = {
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http",
            "root_path": "",
            **{end: where[:2] if isinstance(where, tuple) else None for end, where in address.items()},
        }
        if self._lobby.enter():
            self._lobby.waits(self)
            self._expect(HEAD_TIMEOUT)
        else:
            self._refuse(Overloaded("There are as many connections as are allowed. Try again in a second."))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """The client has gone, or was sent away."""
        self._server.connections.discard(cast("Any", self))
        self._lobby.leave(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadline = _NEVER
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.left()
            self._exchange = None

    def shutdown(self) -> None:
        """The server is ending: what is under way is finished, and nothing comes after it."""
        self._is_draining = True
        if self._exchange is not None:
            self._exchange.keeps = False
        else:
            grace = self._since + DRAIN_GRACE - self._loop.time()
            if grace > 0 or self._is_lingering:
                self._expect(max(grace, 0))
            else:
                self.close()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        self._room = asyncio.Event()
        self._expect(LONGEST_STALL)

    def resume_writing(self) -> None:
        """It has taken most of it."""
        if self._room is not None:
            self._room.set()
            self._room = None
            self._deadline = _NEVER

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, and of what follows it."""
        if self._is_deaf:
            self._discard(len(data))
            return
        if self._incoming is not None and self._exchange is not None:
            data = self._take(data, self._incoming, self._exchange)
        if not data:
            return
        self._unread = self._unread + data if self._unread else data
        if self._exchange is None:
            self._next()
        elif not self._exchange.keeps or len(self._unread) > MOST_AHEAD:
            self._exchange.keeps = False
            self._unread = b""

    # What an exchange asks

    @property
    def is_full(self) -> bool:
        """Whether the client has yet to take much of what was sent."""
        return self._room is not None

    async def emptied(self) -> None:
        """Returns when it is not full any more, or the client has gone."""
        if self._room is not None:
            await self._room.wait()

    def write(self, data: bytes) -> None:
        """Sends, or keeps until it can be sent."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        """No more is read until `resume_reading`."""
        if not self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Reading goes on."""
        if self._is_reading_paused and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()

    def stamps(self) -> Headers:
        """The headers that every answer has."""
        return self._server.default_headers

    def answered(self) -> None:
        """The answer is complete: the next request, or the end."""
        self._server.total_requests += 1
        if self._exchange is None or self.transport.is_closing():
            return
        if not self._exchange.keeps or self._is_draining:
            self._finish(lingers=self._incoming is not None)
            return
        self._exchange = None
        self._since = self._loop.time()
        self._has_begun = False
        self._lobby.waits(self)
        self._expect(self._lobby.keep_alive)
        if self._unread:
            self._next()

    # What happens then

    def _next(self) -> None:
        """Begins the next request, if its head is all there."""
        data = self._unread
        if data[0] in b"\r\n":  # some send a line too much behind a body
            data = data.lstrip(b"\r\n")
        try:
            found = read(data) if data else None
        except GatewayError as error:
            self._refuse(error)
            return
        if found is None:
            self._unread = data
            if not self._has_begun:
                self._has_begun = True
                self._expect(HEAD_TIMEOUT)
            return
        head, end = found
        self._unread = b""
        self._begin(head, data[end:])

    def _begin(self, head: Head, rest: bytes) -> None:
        self._lobby.works(self)
        self._deadline = _NEVER
        state = {**self._app_state, "ending": True} if self._is_draining else self._app_state.copy()
        scope = {**head.scope(), **self._common, "state": state}
        exchange = self._exchange = Exchange(self, head, scope)
        exchange.keeps = head.keeps and not self._is_draining
        if head.ended:
            exchange.completed()
        else:
            self._incoming, self._left, self._waste = head, head.length or 0, 0
        if rest:
            self.data_received(rest)
        if self._incoming is not None:
            self._expect(self._lobby.body_timeout)
        task = self._loop.create_task(exchange.run(self._app))
        task.add_done_callback(self._server.tasks.discard)
        self._server.tasks.add(task)

    def _take(self, data: bytes, head: Head, exchange: Exchange) -> bytes:
        """Gives the exchange what belongs to its body; the rest."""
        if head.length is None:
            self._take_chunks(data, head, exchange)
            return b""
        piece, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        exchange.arrived(piece)
        if not self._left:
            self._complete(exchange)
        return rest

    def _take_chunks(self, data: bytes, head: Head, exchange: Exchange) -> None:
        try:
            piece = head.chunks(data)
            self._waste += len(data) - (WASTE + 1) * len(piece)
            if self._waste > MAX_HEAD:
                raise MalformedRequest("The chunked body has more of framing in it than of a body.")  # noqa: TRY301
        except MalformedRequest as error:
            self._is_deaf = True
            exchange.broken(error)
            return
        exchange.arrived(piece)
        if head.ended:
            exchange.keeps = exchange.keeps and not head.followed
            self._complete(exchange)

    def _complete(self, exchange: Exchange) -> None:
        self._incoming = None
        if self._room is None:
            self._deadline = _NEVER
        exchange.completed()

    def _expect(self, seconds: float) -> None:
        """Gives the client so long for what it is to do now. One timer serves all such times, set when need be."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if self._deadline > self._loop.time():
            if self._deadline != _NEVER:
                self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)
        else:
            self._be_late()

    def _be_late(self) -> None:
        if self.transport.is_closing() or self._room is not None:
            self.transport.abort()
        elif self._is_lingering:
            self.close()
        elif self._exchange is not None:
            limit = self._lobby.body_timeout
            self._is_deaf = True
            self._exchange.broken(
                RequestTimeout(f"The body did not arrive within {limit:.0f} seconds. Send it again, faster.")
            )
        elif self._unread and not self._is_draining:
            self._refuse(RequestTimeout(f"The headers did not arrive within {HEAD_TIMEOUT:.0f} seconds."))
        else:
            self.close()

    def _refuse(self, error: GatewayError) -> None:
        """Answers what is no request."""
        request_id = f"req_{uuid.uuid4().hex}"
        log.info("- - %d %s %s", error.status, request_id, error.code)
        self.write(exchanges.answer(error, [*self.stamps(), (b"x-request-id", request_id.encode())]))
        self._finish(lingers=True)

    def _finish(self, *, lingers: bool) -> None:
        """Closes the connection once the answer is out; `lingers` where the client may still be sending."""
        self._is_deaf = True
        self._unread = b""
        self._exchange = None
        if not lingers:
            self.close()
            return
        self._is_lingering = True
        self._left = MOST_LINGERING
        self._lobby.waits(self)
        self.resume_reading()
        self.transport.write_eof()
        self._expect(LINGER)

    def _discard(self, size: int) -> None:
        if self._is_lingering:
            self._left -= size
            if self._left < 0:
                self.close()

    def close(self) -> None:
        """Closes it when what was sent is out, or after a while."""
        if not self.transport.is_closing():
            self.transport.close()
            self._expect(LONGEST_STALL)
