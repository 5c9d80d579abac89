"""What a server answers to one request, as far as it has come.

llhttp, inside httptools, parses it strictly. What it leaves to those who use it is done here: bounds, informational
answers, which do not count, and an end that is told by the connection's own.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

import httptools

from gateway.http1_client.faults import BrokenOff, Garbled

MAX_HEAD = 64 * 2**10  # bytes, of the answer and all informational ones before it, or of what follows its body
ENOUGH = 256 * 2**10  # bytes of a body that nobody has taken yet, from which on no more is read

_FINAL = HTTPStatus.OK.value  # a number: to compare with a member of an enumeration takes longer than the rest
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})

Fault = type[BrokenOff | Garbled | TimeoutError]


class Line(Protocol):
    """What a response asks of its connection."""

    def pause_reading(self) -> None:
        """No more is read until `resume_reading`."""

    def resume_reading(self) -> None:
        """Reading goes on."""

    def answered(self, *, keeps: bool) -> None:
        """The answer is complete; `keeps` says whether the server may be asked again."""

    def abort(self) -> None:
        """Ends the connection at once."""


class Response:
    """An answer. When it is left as a context before all of it has come, its connection is closed.

    `status` is there once `begun` has returned; `received` counts the bytes of the body.
    """

    def __init__(self, line: Line, loop: asyncio.AbstractEventLoop) -> None:
        self._line = line
        self._loop = loop
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._beside_body = 0  # bytes since its last piece came, or since the beginning
        self._pieces: deque[bytes] = deque()
        self._waiting = 0  # bytes in pieces
        self._news: asyncio.Future[None] | None = None
        self._fault: Fault | None = None
        self._has_head = self._is_whole = self._is_paused = False
        self._keeps = self._ends_with_connection = False
        self.status = 0
        self.received = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Closes its connection, but not when all has come: that may serve somebody else by now."""
        if not self._is_whole:
            self._line.abort()

    def header(self, name: bytes) -> str | None:
        """The first header of that name, which is given in small letters."""
        return next(self._values(name), None)

    def _values(self, name: bytes) -> Iterator[str]:
        return (value.strip(b" \t").decode("latin-1") for key, value in self._headers if key.lower() == name)

    # What its reader asks

    async def begun(self) -> Self:
        """Itself, once its status and headers are here.

        Raises:
            TransferError: they will not come.
            TimeoutError: they took too long.
        """
        while not self._has_head:
            await self._more()
        return self

    async def block(self) -> bytes:
        """What is here of the body and was not taken yet; b"" at its end.

        Raises:
            TransferError: the rest will not come.
            TimeoutError: it took too long.
        """
        while not self._pieces:
            if self._is_whole:
                return b""
            await self._more()
        block = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        self._go_on()
        return block

    async def _more(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._news = self._loop.create_future()
        await self._news

    # What its connection tells

    def arrived(self, data: bytes) -> None:
        """Bytes have come."""
        if self._parser is None:
            return
        self._beside_body += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keeps = False
            self.failed(Garbled)
        if self._is_whole:
            self._complete()
        elif self._beside_body > MAX_HEAD:
            self.failed(Garbled)
        elif self._waiting > ENOUGH and not self._is_paused:
            self._is_paused = True
            self._line.pause_reading()
        self._tell()

    def ended(self, *, in_order: bool) -> None:
        """The server has closed the connection, `in_order` or by a reset; the former may be how the answer ends."""
        if in_order and self._ends_with_connection:
            self._is_whole = True
        self.failed(Garbled if self._beside_body and not self._has_head else BrokenOff)

    def failed(self, fault: Fault) -> None:
        """The rest will not come. The first cause is the one that counts."""
        if not self._is_whole and self._fault is None:
            self._fault = fault
            self._line.abort()
        self._parser = None
        self._tell()

    def _complete(self) -> None:
        self._parser = None  # it leads back here, and what goes round is freed late
        self._go_on()
        self._line.answered(keeps=self._keeps)

    def _go_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._line.resume_reading()

    def _tell(self) -> None:
        if self._news is not None:
            if not self._news.done():
                self._news.set_result(None)
            self._news = None

    # What the parser calls

    def on_message_begin(self) -> None:
        """An answer begins: behind the one that was asked for there is none."""
        if self._is_whole:
            self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or what follows a body in chunks."""
        if not self._has_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head has ended."""
        if self._has_head or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < _FINAL:
            self._headers.clear()
            return
        self.status, self._has_head = status, True
        self._keeps = self._parser.should_keep_alive()
        self._ends_with_connection = not self._keeps and not self._is_framed()

    def _is_framed(self) -> bool:
        """Whether the answer itself says where it ends."""
        if self.status in _BODILESS or self.header(b"content-length") is not None:
            return True
        return any(value.lower().endswith("chunked") for value in self._values(b"transfer-encoding"))

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if not self._is_whole:
            self._pieces.append(piece)
            self._waiting += len(piece)
            self.received += len(piece)
            self._beside_body = 0

    def on_message_complete(self) -> None:
        """The answer has ended, or one that was only informational."""
        self._is_whole = self._has_head
