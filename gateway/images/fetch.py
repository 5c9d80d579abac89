"""Downloads pictures from public addresses, within limits of time, bytes and redirects.

Whatever goes wrong on the network, the client reads one and the same sentence; the cause is chained to the error, for
the log of whoever runs the gateway.
"""

import asyncio
import re
from contextlib import AsyncExitStack
from ipaddress import ip_network
from types import TracebackType

import aiohttp
from yarl import URL

from gateway import __version__
from gateway.config import ImagesConfig
from gateway.images import refusal
from gateway.images.address import may_dial
from gateway.images.connector import Connector, Guard, Lookup, SystemLookup
from gateway.images.url import Target, UrlError, join, parse

MAX_REDIRECTS = 3
MAX_HEADER_LINE = 8192
MAX_HEADERS = 100
CHUNK = 64 * 2**10

_OK, _PARTIAL_CONTENT = 200, 206
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": f"altgate/{__version__}",
    "Accept": "image/jpeg,image/png,image/webp,image/gif,*/*;q=0.5",
    # A compressed body could unfold to any size, and pictures are compressed already.
    "Accept-Encoding": "identity",
}
_CONTENT_RANGE = re.compile(r"bytes 0-(?P<last>[0-9]{1,18})/(?P<total>[0-9]{1,18}|\*)", re.IGNORECASE | re.ASCII)


class UnreachableError(Exception):
    """Why a download was given up. Its text is for the log alone."""


class Fetcher:
    """Fetches pictures by URL over one pool of connections; an async context manager, to be entered once.

    `lookup` finds a name's addresses; by default the operating system does.
    """

    def __init__(self, config: ImagesConfig, *, lookup: Lookup | None = None) -> None:
        self._config = config
        self._allowed = tuple(map(ip_network, config.allowed_networks))
        self._lookup = lookup
        self._open = AsyncExitStack()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Fetcher":
        lookup = self._lookup
        if lookup is None:
            lookup = SystemLookup()
            self._open.callback(lookup.close)
        self._session = await self._open.enter_async_context(
            aiohttp.ClientSession(
                connector=Connector(Guard(self._allowed), lookup),
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # one deadline over all hops is kept in `fetch`
                auto_decompress=False,
                trust_env=False,
                max_line_size=MAX_HEADER_LINE,
                max_field_size=MAX_HEADER_LINE,
                max_headers=MAX_HEADERS,
                read_bufsize=CHUNK,
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The bytes behind the URL, at least one and at most `max_bytes`, within `fetch_timeout` seconds.

        Raises:
            PictureError: `invalid_image_url`, `image_file_too_large` or `empty_image_file`, at `param`.
        """
        target = self._admit(url, param)
        try:
            async with asyncio.timeout(self._config.fetch_timeout):
                return await self._follow(target, param)
        except (UnreachableError, UrlError, aiohttp.ClientError, OSError) as error:
            raise refusal.unreachable(param) from error

    def _admit(self, url: str, param: str) -> Target:
        """The URL as the client wrote it: here, before any lookup, the fault may be told."""
        try:
            target = parse(url, self._config.allowed_ports)
        except UrlError as fault:
            raise refusal.unusable_url(param, str(fault)) from None
        if not self._may_dial(target):
            raise refusal.unusable_url(param, "leads to an address that is not public; only public ones are fetched")
        return target

    def _may_dial(self, target: Target) -> bool:
        return target.address is None or may_dial(target.address, self._allowed)

    async def _follow(self, target: Target, param: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(URL(str(target), encoded=True), allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response, param)
                response.close()  # a redirect's body is not read, however long it is
                target = self._redirect(target, response.headers.get("Location", ""))
        raise UnreachableError("too many redirects")

    def _redirect(self, target: Target, location: str) -> Target:
        following = join(target, location, self._config.allowed_ports)
        if not self._may_dial(following):
            raise UnreachableError("redirected to an address that is not public")
        return following

    async def _read(self, response: aiohttp.ClientResponse, param: str) -> bytes:
        self._check_head(response, param)
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._config.max_bytes:
                raise refusal.too_many_bytes(param, self._config.max_bytes)
        if response.status == _PARTIAL_CONTENT and not is_whole(response.headers.get("Content-Range", ""), len(body)):
            raise UnreachableError("only a part was sent")
        if not body:
            raise refusal.empty(param)
        return bytes(body)

    def _check_head(self, response: aiohttp.ClientResponse, param: str) -> None:
        if response.status not in (_OK, _PARTIAL_CONTENT):
            raise UnreachableError("status is neither 200 nor 206")
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise UnreachableError("the body is encoded, though identity was asked for")
        if (response.content_length or 0) > self._config.max_bytes:
            raise refusal.too_many_bytes(param, self._config.max_bytes)


def is_whole(content_range: str, length: int) -> bool:
    """Whether a partial answer of `length` bytes, with this Content-Range header, is the whole file after all."""
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    if not found or length == 0:
        return False
    return int(found["last"]) == length - 1 and found["total"] in ("*", str(length))
