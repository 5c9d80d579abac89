"""One request and its answer: the two ends that ASGI gives to an application, and how answers look on the wire."""

import asyncio
import http
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from gateway.errors import GatewayError, InternalError, render
from gateway.http1.head import Head

log = logging.getLogger(__name__)

ENOUGH = 256 * 2**10  # bytes of a body that nobody has taken yet, from which on no more is read

Headers = Iterable[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

Watch = Callable[[Callable[[], None] | None], None]
"""Has a function called once the client has gone, or none any more. It saves a task that awaits a message of it."""
WATCH = "altgate.watch"  # where it stands among a scope's extensions

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}\r\n".encode() for code in range(200, 600)}
_EMPTY = frozenset({204, 304})  # statuses whose answers have no body
_LARGE = 64 * 2**10  # bytes from which on a body is not copied behind its headers


class Line(Protocol):
    """What an exchange asks of its connection."""

    @property
    def is_full(self) -> bool:
        """Whether the client has yet to take much of what was sent."""

    @property
    def can_skip(self) -> bool:
        """Whether the rest of the body can be read and thrown away."""

    async def emptied(self) -> None:
        """Returns when it is not full any more, or the client has gone."""

    def write(self, data: bytes) -> None:
        """Sends, or keeps until it can be sent."""

    def pause_reading(self) -> None:
        """No more is read until `resume_reading`."""

    def resume_reading(self) -> None:
        """Reading goes on."""

    def stamps(self) -> Headers:
        """The headers that every answer has."""

    def answered(self) -> None:
        """The answer is complete."""


class Exchange:
    """A request with what has arrived of its body, and the answer as far as it was sent.

    `keeps` says whether the connection may serve another request afterwards.
    """

    def __init__(self, line: Line, head: Head, scope: MutableMapping[str, Any]) -> None:
        self._line = line
        self._scope = scope
        self._scope["extensions"] = {WATCH: self._watch}
        self._head = head
        self._pieces: deque[bytes] = deque()
        self._waiting = 0  # bytes in pieces
        self._news = asyncio.Event()
        self._is_whole = self._is_told = False
        self._fault: GatewayError | None = None
        self._gone = False
        self._on_left: Callable[[], None] | None = None
        self._start: bytes | None = None
        self._is_chunked = self._is_bodiless = False
        self._due: int | None = None  # bytes of the answer still to come, where that is known
        self.keeps = head.keeps
        self.begun = self.done = False

    async def run(self, app: Application) -> None:
        """Has the application answer; whatever becomes of that, the exchange is over afterwards."""
        try:
            await app(self._scope, self.receive, self.send)
            if not self.done and not self._gone:
                raise RuntimeError("the application has not completed its answer")  # noqa: TRY301 - told as any other
        except asyncio.CancelledError:
            self.keeps = False
            raise
        except Exception:
            log.exception("a request failed outside of its handler")
            self.keeps = False
            if not self.begun or self._start is not None:
                await self._apologise()
        finally:
            self._scope.pop("extensions", None)  # it leads back here, and what goes round is freed late
            if not self.done:
                self.keeps = False
                self.done = True
                self._line.answered()

    async def _apologise(self) -> None:
        error = InternalError("Something went wrong on our side. The log has the details.")
        status, headers, body = render(error)
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": named})
        await self.send({"type": "http.response.body", "body": body})

    # What arrives

    def arrived(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.done or not piece:
            return
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting > ENOUGH:
            self._line.pause_reading()
        self._news.set()

    def completed(self) -> None:
        """The body has ended."""
        self._is_whole = True
        self._news.set()

    def broken(self, fault: GatewayError) -> None:
        """The rest of the body will not come; the application is told why when it asks for it."""
        self._fault = fault
        self._news.set()

    def left(self) -> None:
        """The client has gone."""
        self._gone = True
        self._news.set()
        if self._on_left is not None:
            self._on_left()

    def _watch(self, on_left: Callable[[], None] | None) -> None:
        self._on_left = on_left
        if on_left is None:
            return
        self._line.resume_reading()  # else nobody would notice
        if self._gone:
            asyncio.get_running_loop().call_soon(on_left)

    async def receive(self) -> Message:
        """The next piece of the body, or that nothing comes any more.

        Raises:
            GatewayError: the body is broken.
        """
        if self._head.expects:
            self._head.expects = False
            if not self.begun and not self._pieces and not self._is_whole:
                self._line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._pieces or self._gone or self.done or self._fault or (self._is_whole and not self._is_told)):
            self._news.clear()
            self._line.resume_reading()
            await self._news.wait()
        if self._gone or self.done:
            return {"type": "http.disconnect"}
        if self._pieces:
            return self._next_piece()
        if self._fault is not None:
            raise self._fault
        self._is_told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    def _next_piece(self) -> Message:
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        self._is_told = self._is_whole and not self._pieces
        return {"type": "http.request", "body": piece, "more_body": not self._is_told}

    # What is sent

    async def send(self, message: Message) -> None:
        """Sends a part of the answer; its headers wait for the first bytes of its body, to go out with them."""
        if self._line.is_full:
            await self._line.emptied()
        if self._gone or self.done:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            self._begin(message["status"], message.get("headers", ()))
        else:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body", False))

    def _begin(self, status: int, headers: Headers) -> None:
        lines, self._due, closes = [_STATUS[status]], None, False
        for name, value in (*self._line.stamps(), *headers):
            lower = name.lower()
            if lower == b"content-length":
                self._due = int(value)
            elif lower == b"connection":
                closes = b"close" in value.lower()
            lines.append(b"%b: %b\r\n" % (name, value))
        if closes or not (self._is_whole or (self._line.can_skip and not self._head.expects)):
            self.keeps = False  # the next request stands behind the rest of the body, which may be long or never come
        if not self.keeps and not closes:
            lines.append(b"connection: close\r\n")
        self._start = b"".join(lines)
        if self._start.count(b"\n") != len(lines):
            raise RuntimeError("a header of the answer holds a line feed")
        self._is_bodiless = self._scope["method"] == "HEAD" or status in _EMPTY

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        pieces = []
        if self._start is not None:
            pieces.append(self._framed(self._start, len(body), is_last=is_last))
            self._start = None
        if self._is_chunked:
            pieces += (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
            pieces += (b"0\r\n\r\n",) if is_last else ()
        elif not self._is_bodiless:
            pieces.append(body)
            self._due = None if self._due is None else self._due - len(body)
        self._write(pieces)
        if is_last:
            self.keeps = self.keeps and (self._is_bodiless or not self._due)
            self.done = True
            self._news.set()
            self._line.answered()

    def _framed(self, start: bytes, length: int, *, is_last: bool) -> bytes:
        """The headers, with how long the body is, or how its end is told."""
        if self._due is not None or self._is_bodiless:
            return start + b"\r\n"
        if is_last:
            self._due = length
            return b"%bcontent-length: %d\r\n\r\n" % (start, length)
        if self._scope["http_version"] == "1.1":
            self._is_chunked = True
            return start + b"transfer-encoding: chunked\r\n\r\n"
        return start + b"\r\n"  # it ends with the connection, which HTTP/1.0 does not keep here

    def _write(self, pieces: list[bytes]) -> None:
        if sum(map(len, pieces)) < _LARGE:
            self._line.write(b"".join(pieces))
            return
        for piece in pieces:
            self._line.write(piece)


def answer(error: GatewayError, stamps: Headers) -> bytes:
    """A refusal as it goes over the wire, of what is not even a request."""
    status, headers, body = render(error)
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    lines = [b"%b: %b\r\n" % each for each in (*stamps, *named)]
    ending = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return b"".join((_STATUS[status], *lines, ending, body))
