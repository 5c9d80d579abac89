"""From what a client wrote to what an engine gets: `load` has the bytes, `normalize` makes them plain.

Between the two lies the cache: a picture is known by the digest of its bytes, so most are never decoded.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

from gateway.config import ImagesConfig
from gateway.images import data_url, normalize
from gateway.images.decode import Format, require_format

_REMOTE = re.compile(r"https?:", re.IGNORECASE | re.ASCII)
_INLINE = 256 * 2**10  # bytes; work on less takes well under a millisecond, less than a thread's round trip is worth

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it came. `digest` is the SHA-256 of its bytes in hex, the picture's identity everywhere."""

    data: bytes = field(repr=False)
    digest: str
    format: Format


class Source(Protocol):
    """Where remote pictures come from: the `Fetcher`, or a test's."""

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The bytes behind the URL."""


class Ingest:
    """Loads and normalises pictures, as many at once as there are processors; the others wait in line.

    The event loop is never blocked. Leaving it as an async context manager gives its threads back.
    """

    def __init__(self, fetcher: Source, config: ImagesConfig) -> None:
        self._fetcher = fetcher
        self._config = config
        # Threads of its own, not a semaphore: one that is given up while it decodes still counts.
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")

    async def __aenter__(self) -> "Ingest":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def load(self, url: str, *, param: str) -> Encoded:
        """The picture that `url` leads to or holds: an http(s) URL, a data URL or bare base64.

        Raises:
            PictureError: it cannot be had, is over `max_bytes` or in no accepted format; at `param`.
        """
        data = await self._read(url, param)
        kind = require_format(data, param=param)
        digest = await _aside(len(data), partial(_digest, data))
        return Encoded(data=data, digest=digest, format=kind)

    async def normalize(self, encoded: Encoded, *, floor: int | None, param: str) -> bytes:
        """The picture as a plain PNG; see `normalize.normalize`.

        Raises:
            PictureError: `image_too_large` or `image_parse_error`, at `param`.
        """
        work = partial(
            normalize.normalize,
            encoded.data,
            encoded.format,
            floor=floor,
            max_pixels=self._config.max_pixels,
            param=param,
        )
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def _read(self, url: str, param: str) -> bytes:
        if _REMOTE.match(url):
            return await self._fetcher.fetch(url, param=param)
        return await _aside(len(url), partial(data_url.decode, url, param=param, max_bytes=self._config.max_bytes))


async def _aside(size: int, work: Callable[[], T]) -> T:
    """Does the work on `size` bytes, in a thread if it is long."""
    return work() if size <= _INLINE else await asyncio.to_thread(work)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
