"""The head of a request: its request line and its headers.

llhttp, inside httptools, parses it strictly. What llhttp leaves to those who use it is done here: bounds, one Host,
no coding but "chunked", and an upgrade that is offered is not taken, which leaves the request as it would be without.
"""

import re
from typing import Any
from urllib.parse import unquote

import httptools

from gateway.errors import HeadersTooLarge, MalformedRequest, UrlTooLong

MAX_HEAD = 32 * 2**10  # bytes
MAX_HEADERS = 100
MAX_TARGET = 8 * 2**10  # bytes

_END = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"([A-Z-]+) ([!-~]+) HTTP/(1\.[01])\r\n")
_OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_HOST = re.compile(rb"[\w.~%!$&'()*+,;=:\[\]-]*", re.ASCII)
_AUTHORITY = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})


class Head:
    """A head that has been read, and the reader of a body that comes in chunks.

    `length` is that of the body in bytes, None where it comes in chunks. `keeps` says whether the client wants the
    connection kept, `expects` that it waits for a word before it sends the body. `followed` says that another request
    stood right behind the chunks, of which the parser has swallowed a part.
    """

    __slots__ = ("_chunks", "_framing", "_parser", "ended", "expects", "followed", "headers", "keeps", "length", "line")

    def __init__(self, block: bytes) -> None:
        found = _REQUEST_LINE.match(block)
        if found is None:
            raise MalformedRequest("The request line is none of HTTP/1.1: 'METHOD /path HTTP/1.1' is wanted.")
        self.line: tuple[bytes, bytes, bytes] = (found[1], found[2], found[3])
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = 0
        self.keeps = self.expects = self.ended = self.followed = False
        self._framing: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(block)
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"The request is malformed: {_reason(error)}.") from None
        self._frame()
        if self.length is not None:
            del self._parser  # it holds this head in turn

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; called by the parser, for those after a chunked body as well."""
        name, value = name.lower(), value.rstrip(b" \t")
        self.headers.append((name, value))
        if name in _FRAMING:
            self._framing.append((name, value))

    def on_headers_complete(self) -> None:
        """The head has ended; called by the parser, which knows no more of the connection once the request has."""
        self.keeps = self.line[2] == b"1.1" and self._parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        """A piece of a chunked body; called by the parser."""
        if not self.ended:
            self._chunks.append(piece)

    def on_message_begin(self) -> None:
        """A request begins; called by the parser."""
        self.followed = self.ended

    def on_message_complete(self) -> None:
        """The request has ended; called by the parser."""
        self.ended = True

    def chunks(self, data: bytes) -> bytes:
        """What `data` holds of a body that comes in chunks; `ended` tells when that was the last.

        Raises:
            MalformedRequest: those are no chunks.
        """
        self._chunks = []
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.ended:  # else it is about the request that follows
                raise MalformedRequest(f"The chunked body is malformed: {_reason(error)}.") from None
        if self.ended:
            del self._parser
        return b"".join(self._chunks)

    def scope(self) -> dict[str, Any]:
        """What ASGI wants to know of the request."""
        method, target, version = self.line
        if not target.startswith(b"/"):
            target = _origin_form(target)
        path, _, query = target.partition(b"?")
        text = path.decode("ascii")
        return {
            "type": "http",
            "http_version": version.decode(),
            "method": method.decode(),
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": [*self.headers],  # the parser adds those that follow a chunked body
        }

    def _frame(self) -> None:
        """Notes how long the body is, and refuses what two servers might take for different requests."""
        named: dict[bytes, bytes] = {}
        for name, value in self._framing:
            if name in named and name != b"expect":
                raise MalformedRequest(f"The header '{name.decode()}' is there twice.")
            named[name] = value
        is_current = self.line[2] == b"1.1"
        host = named.get(b"host", None if is_current else b"")
        if host is None or not _HOST.fullmatch(host):
            raise MalformedRequest("The header 'host' is missing, or it is no host.")
        if coding := named.get(b"transfer-encoding"):
            if coding.lower() != b"chunked" or not is_current:
                raise MalformedRequest("The header 'transfer-encoding' may only say 'chunked', and only in HTTP/1.1.")
            self.length = None
        else:
            self.length = int(named.get(b"content-length", b"0"))
        self.expects = is_current and named.get(b"expect", b"").lower() == b"100-continue"


def read(data: bytes) -> tuple[Head, int] | None:
    """The head at the beginning of `data`, and where it ends; None while it is not all there.

    Raises:
        MalformedRequest: it is no request, or one that could be read in two ways.
        HeadersTooLarge: it is over `MAX_HEAD` or `MAX_HEADERS`.
        UrlTooLong: its target is over `MAX_TARGET`.
    """
    last = data.find(_END, 0, MAX_HEAD)
    if last < 0:
        _check_beginning(data)
        return None
    block = data[: (end := last + len(_END))]
    if block.count(b"\r\n") > MAX_HEADERS + 2:
        raise HeadersTooLarge(f"There are more than {MAX_HEADERS} headers. Send fewer.")
    if block.find(b"\r\n") > MAX_TARGET:
        raise _too_long()
    try:
        return Head(block), end
    except httptools.HttpParserUpgrade:
        plain = _OFFER.sub(b"", block)
    try:
        return Head(plain), end
    except httptools.HttpParserUpgrade:
        raise MalformedRequest("Tunnels are not made here: CONNECT is for proxies.") from None


def _check_beginning(data: bytes) -> None:
    """Refuses what will not become a request, however much follows."""
    if not data[:1].isalpha() or data.count(b"\n") > data.count(b"\r\n"):
        raise MalformedRequest("This is no HTTP/1.1. For HTTPS, put a server in front that speaks TLS.")
    if data.find(b"\r\n", 0, MAX_TARGET) < 0 and len(data) > MAX_TARGET:
        raise _too_long()
    if len(data) >= MAX_HEAD:
        raise HeadersTooLarge(f"The headers are larger than {MAX_HEAD // 2**10} KiB. Send less in them.")


def _too_long() -> UrlTooLong:
    return UrlTooLong(f"The URL is longer than {MAX_TARGET // 2**10} KiB. Requests belong into the body.")


def _origin_form(target: bytes) -> bytes:
    """The target as clients of servers write it; that of a proxy's client names the server first."""
    rest = target[found.end() :] if (found := _AUTHORITY.match(target)) else target
    return b"/" + rest if rest.startswith(b"?") or not rest else rest


def _reason(error: Exception) -> str:
    """What llhttp says of it; its sentences are fixed, and none repeats what was sent."""
    text = str(error)
    return text[:1].lower() + text[1:]
