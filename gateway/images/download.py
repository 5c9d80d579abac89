"""One download: over its redirects to its bytes, within limits of time, rate, bytes and tries."""

import asyncio
import re
from collections.abc import Sequence
from ssl import SSLContext
from types import TracebackType

import aiohttp
from yarl import URL

from gateway import __version__
from gateway.config import ImagesConfig
from gateway.images import installed
from gateway.images.connector import EVERYWHERE, Connector, Guard, Lookup, SystemLookup
from gateway.images.places import Room
from gateway.images.policy import Policy
from gateway.images.sniff import Format
from gateway.images.url import Target, UrlError

MAX_REDIRECTS = 3
MAX_HEADER_LINE = 8192  # bytes, of the status line too
MAX_HEADERS = 100
MAX_UNDER_WAY = 256 * 2**20  # bytes of all bodies that are not yet there in full
MAX_HEAD = 64 * 2**10  # bytes of all headers together
RATE_GRACE = 2.0  # seconds for which a body may be slower than the least rate
TRIES = 2  # of all hops together
RETRY_PAUSE = 0.25  # seconds
CHUNK = 64 * 2**10

_OK, _PARTIAL_CONTENT = 200, 206
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOO_MANY_REQUESTS, _SERVER_ERRORS = 429, 500
_CONTENT_RANGE = re.compile(r"bytes 0-(?P<last>[0-9]{1,18})/(?P<total>[0-9]{1,18}|\*)", re.IGNORECASE | re.ASCII)


class UnreachableError(Exception):
    """What came back is not the file. The text is for the log alone."""


class PassingError(UnreachableError):
    """It may be gone when one asks again: an overloaded server, or an idle connection closed as it was used."""


class TooManyBytesError(Exception):
    """The file is over the limit."""


# What may go wrong on the network, and what a server may do wrong.
FAILURES = (UnreachableError, UrlError, aiohttp.ClientError, OSError)


class Downloader:
    """Downloads over one pool of connections; an async context manager, to be entered once.

    `lookup` finds a name's addresses and `tls` says whom to trust; by default both are the operating system's.
    `own_port` is where the gateway itself listens.
    """

    def __init__(
        self,
        config: ImagesConfig,
        policy: Policy,
        *,
        lookup: Lookup | None = None,
        tls: SSLContext | None = None,
        own_port: int | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._lookup = lookup
        self._tls = tls
        # Where there is a proxy, nothing else is dialled, and it may stand anywhere.
        self._guard = Guard(EVERYWHERE) if config.proxy else Guard(policy.networks, own_port=own_port)
        self._room = Room(MAX_UNDER_WAY)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Downloader":
        lookup = self._lookup or SystemLookup(patience=self._config.connect_timeout / 2)
        self._session = aiohttp.ClientSession(
            connector=Connector(self._guard, lookup, patience=self._config.connect_timeout, tls=self._tls),
            proxy=self._config.proxy,
            headers=_headers(self._config.formats),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # one deadline over all hops is kept in `download`
            middlewares=(_only_once,),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
            max_headers=MAX_HEADERS,
            read_bufsize=CHUNK,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def download(self, target: Target) -> bytes:
        """The bytes, at most `max_bytes` and within `fetch_timeout` seconds; perhaps none.

        Raises:
            TooManyBytesError: there are more.
            NoPlaceError: too many names are being looked up, or too many bytes are under way.
            FAILURES: they cannot be had.
        """
        hops, tries = 0, TRIES
        async with asyncio.timeout(self._config.fetch_timeout):
            while hops <= MAX_REDIRECTS:
                try:
                    found = await self._ask(target)
                except PassingError:
                    tries -= 1
                    if not tries:
                        raise
                    # Only this hop again: a server that closes connections as they are used again does so each time.
                    await asyncio.sleep(RETRY_PAUSE)
                    continue
                if not isinstance(found, Target):
                    return found
                target, hops = found, hops + 1
        raise UnreachableError("too many redirects")

    async def _ask(self, target: Target) -> bytes | Target:
        """What is there, or where that leads."""
        async with self._session.get(URL(str(target), encoded=True), allow_redirects=False) as response:
            _check_head(response)
            if response.status not in _REDIRECTS:
                return await self._read(response)
            response.close()  # a redirect's body is not read, however long it is
            return self._policy.join(target, response.headers.get("Location", ""))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        _check_status(response)
        if (response.content_length or 0) > self._config.max_bytes:
            raise TooManyBytesError
        body = await self._read_body(response.content)
        if response.status == _PARTIAL_CONTENT and not is_whole(response.headers.get("Content-Range", ""), len(body)):
            raise UnreachableError("only a part was sent")
        return bytes(body)

    async def _read_body(self, content: aiohttp.StreamReader) -> bytearray:
        body = bytearray()
        grace = asyncio.get_running_loop().time() + RATE_GRACE
        async with asyncio.timeout_at(grace) as patience:
            with self._room.admitted() as hold:
                async for chunk in content.iter_any():
                    hold(len(chunk))
                    body += chunk
                    if len(body) > self._config.max_bytes:
                        raise TooManyBytesError
                    patience.reschedule(grace + len(body) / self._config.min_rate)
        return body


def _headers(formats: Sequence[Format]) -> dict[str, str]:
    return {
        "User-Agent": f"altgate/{__version__}",
        "Accept": ",".join([*(f"image/{kind}" for kind in installed.readable(formats)), "*/*;q=0.5"]),
        # A compressed body could unfold to any size, and pictures are compressed already.
        "Accept-Encoding": "identity",
    }


async def _only_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request again by itself: tries are counted in `download`."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise PassingError("the connection broke off") from error


def _check_head(response: aiohttp.ClientResponse) -> None:
    if sum(len(name) + len(value) for name, value in response.raw_headers) > MAX_HEAD:
        raise UnreachableError("the headers are too long")


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == _TOO_MANY_REQUESTS or response.status >= _SERVER_ERRORS:
        raise PassingError("the server is overloaded or has failed")
    if response.status not in (_OK, _PARTIAL_CONTENT):
        raise UnreachableError("status is neither 200 nor 206")
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnreachableError("the body is encoded, though identity was asked for")


def is_whole(content_range: str, length: int) -> bool:
    """Whether a partial answer of `length` bytes, with this Content-Range header, is the whole file after all."""
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    if not found or length == 0:
        return False
    return int(found["last"]) == length - 1 and found["total"] in ("*", str(length))
