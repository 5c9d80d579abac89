"""One client's connection: its requests one after the other, each step with a deadline.

A connection is in one of these states; what is late ends it, and how stands behind.

    waiting     no byte of a request has come yet             closed without a word
    beginning   a part of a request's head is here            408
    receiving   the request's body is still coming            408, by the application
    answering   the request is all here                       a client that does not take its answer counts as gone
    skipping    answered, with a little of the body to come   closed without a word
    lingering   answered, with more than that to come         closed, though the client may still send

Closing at once while a client still sends would reset the connection, and the reset could overtake the answer.
"""

import asyncio
import logging
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from gateway import ids
from gateway.errors import GatewayError, MalformedRequest, Overloaded, RequestTimeout
from gateway.http1 import exchange as exchanges
from gateway.http1.deadline import Deadline
from gateway.http1.exchange import Exchange, Headers
from gateway.http1.head import MAX_HEAD, Head, read
from gateway.http1.lobby import Lobby

log = logging.getLogger("gateway.access")

HEAD_TIMEOUT = 10.0  # seconds, from the connection or from a request's first byte on
BODY_PATIENCE = 10.0  # seconds in which a body must come at the least rate, whatever it may take in all
LEAST_RATE = 1000  # bytes a second
LONGEST_STALL = 30.0  # seconds for which a client takes less of its answer than would let us send on
LINGER = 5.0  # seconds
MOST_LINGERING = 32 * 2**20  # bytes
MOST_SKIPPED = 2**20  # bytes of a body that nobody wants, up to which reading it is cheaper than to connect again
MOST_AHEAD = 64 * 2**10  # bytes of requests that come before the one ahead of them is answered
WASTE = 8  # bytes of framing for each of a chunked body, beyond what a head may take
DRAIN_GRACE = 1.0  # seconds in which a client that has just used its connection may be about to use it again


class Connection(asyncio.BufferedProtocol):
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
        self._deadline = Deadline(self._loop, self._be_late)
        self._stall = Deadline(self._loop, self._abort)  # of its own: what comes from a client may be awaited meanwhile
        self._unread = b""
        self._exchange: Exchange | None = None
        self._incoming: Head | None = None  # the request whose body is still coming
        self._left = 0  # bytes of it, unless it comes in chunks
        self._waste = 0  # bytes of it so far that were framing
        self._body_due = 0.0
        self._arrived = 0  # bytes of it since the deadline was set
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
            self._deadline.expect(HEAD_TIMEOUT)
        else:
            self._refuse(Overloaded("There are as many connections as are allowed. Try again in a second."))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """The client has gone, or was sent away."""
        self._server.connections.discard(cast("Any", self))
        self._lobby.leave(self)
        self._deadline.end()
        self._stall.end()
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.left()
            self._exchange = None

    def shutdown(self) -> None:
        """The server is ending: what is under way is finished, and nothing comes after it."""
        self._is_draining = True
        if self._exchange is not None:
            self._exchange.keeps = False
            return
        grace = self._since + DRAIN_GRACE - self._loop.time()
        if grace > 0:
            self._deadline.expect(grace)
        else:
            self.close()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        self._room = asyncio.Event()
        self._stall.expect(LONGEST_STALL)

    def resume_writing(self) -> None:
        """It has taken most of it."""
        if self._room is not None:
            self._room.set()
            self._room = None
            self._stall.clear()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the size is ours to choose
        """Where bytes are to be put. It is little for a head, so that a body is not read before somebody wants it."""
        return self._lobby.large if self._incoming is not None or self._is_deaf else self._lobby.small

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of a request, and of what follows it."""
        if not self._is_deaf:
            self._hear(bytes(self._lobby.large[:nbytes]))
        elif self._is_lingering:
            self._left -= nbytes
            if self._left < 0:
                self.close()

    # What an exchange asks

    @property
    def is_full(self) -> bool:
        """Whether the client has yet to take much of what was sent."""
        return self._room is not None

    @property
    def can_skip(self) -> bool:
        """Whether so little of the body is still to come that it may as well be read."""
        is_told = self._incoming is not None and self._incoming.length is not None
        return is_told and self._left <= MOST_SKIPPED and not self._is_deaf

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
        if not self._exchange.keeps:
            self._finish(lingers=self._incoming is not None)
            return
        self._exchange = None
        self._lobby.waits(self)
        self.resume_reading()
        if self._incoming is not None:
            self._deadline.expect(LINGER)
            return
        self._rest()
        if self._unread:
            self._next()

    # What happens then

    def _rest(self) -> None:
        """Waits for the next request."""
        self._since = self._loop.time()
        self._has_begun = False
        self._deadline.expect(self._lobby.keep_alive)

    def _hear(self, data: bytes) -> None:
        if self._incoming is not None:
            self._arrived += len(data)
            data = self._take(data, self._incoming)
        if not data:
            return
        self._unread = self._unread + data if self._unread else data
        if self._exchange is None:
            self._next()
        elif not self._exchange.keeps or len(self._unread) > MOST_AHEAD:
            self._exchange.keeps = False
            self._unread = b""

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
                self._deadline.expect(HEAD_TIMEOUT)
            return
        head, end = found
        self._unread = b""
        self._begin(head, data[end:])

    def _begin(self, head: Head, rest: bytes) -> None:
        self._lobby.works(self)
        self._deadline.clear()
        state = {**self._app_state, "ending": True} if self._is_draining else self._app_state.copy()
        scope = {**head.scope(), **self._common, "state": state}
        exchange = self._exchange = Exchange(self, head, scope)
        exchange.keeps = head.keeps and not self._is_draining
        if head.ended:
            exchange.completed()
        else:
            self._incoming, self._left, self._waste = head, head.length or 0, 0
        if rest:
            self._hear(rest)
        if self._incoming is not None:
            self._body_due = self._loop.time() + self._lobby.body_timeout
            self._expect_body(self._lobby.body_timeout)
            self.pause_reading()  # until somebody wants it
        task = self._loop.create_task(exchange.run(self._app))
        task.add_done_callback(self._server.tasks.discard)
        self._server.tasks.add(task)

    def _take(self, data: bytes, head: Head) -> bytes:
        """Gives the exchange what belongs to its body; the rest."""
        if head.length is None:
            self._take_chunks(data, head)
            return b""
        piece, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        if self._exchange is not None:
            self._exchange.arrived(piece)
        if not self._left:
            self._complete()
        return rest

    def _take_chunks(self, data: bytes, head: Head) -> None:
        if self._exchange is None:
            return
        try:
            piece = head.chunks(data)
            # What a body has less of framing is not saved up: headers may follow it, which are kept.
            self._waste = max(0, self._waste + len(data) - (WASTE + 1) * len(piece))
            if self._waste > MAX_HEAD:
                raise MalformedRequest("The chunked body has more of framing in it than of a body.")  # noqa: TRY301
        except MalformedRequest as error:
            self._is_deaf = True
            self._exchange.broken(error)
            return
        self._exchange.arrived(piece)
        if head.ended:
            self._exchange.keeps = self._exchange.keeps and not head.followed
            self._complete()

    def _complete(self) -> None:
        """The body is all here."""
        self._incoming = None
        self._deadline.clear()
        if self._exchange is not None:
            self._exchange.completed()
        else:
            self._rest()

    def _be_late(self) -> None:
        if self.transport.is_closing():
            self._abort()
        elif self._exchange is not None:
            self._look_at_body(self._exchange)
        elif self._unread and not self._is_draining:
            self._refuse(RequestTimeout(f"The headers did not arrive within {HEAD_TIMEOUT:.0f} seconds."))
        else:
            self.close()

    def _expect_body(self, seconds: float) -> None:
        self._arrived = 0
        self._deadline.expect(min(seconds, BODY_PATIENCE))

    def _look_at_body(self, exchange: Exchange) -> None:
        """Waits on for a body that makes progress and has time left; a client whom we do not read cannot make any."""
        left = self._body_due - self._loop.time()
        if left > 0 and (self._is_reading_paused or self._arrived >= BODY_PATIENCE * LEAST_RATE):
            self._expect_body(left)
            return
        self._is_deaf = True
        limit = f"within {self._lobby.body_timeout:.0f} seconds, or stood still for {BODY_PATIENCE:.0f}"
        exchange.broken(RequestTimeout(f"The body did not arrive {limit}. Send it again, faster."))

    def _abort(self) -> None:
        self.transport.abort()

    def _refuse(self, error: GatewayError) -> None:
        """Answers what is no request."""
        request_id = f"req_{ids.fresh()}"
        log.info("no request: %d %s %s", error.status, error.code, request_id)
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
        self._since = self._loop.time()
        self._left = MOST_LINGERING
        self._lobby.waits(self)
        self.resume_reading()
        self.transport.write_eof()
        self._deadline.expect(LINGER)

    def close(self) -> None:
        """Closes it when what was sent is out, or after a while."""
        if not self.transport.is_closing():
            self.transport.close()
            self._deadline.expect(LONGEST_STALL)
