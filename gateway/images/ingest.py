"""From what a client wrote to what an engine gets: `load` has the bytes, `hand_over` makes them plain.

Between the two lies the cache: a picture is known by the digest of its bytes, so most are never decoded. What can be
told from a picture's header is refused before.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import TracebackType
from typing import Protocol

from gateway.allocator import Pauses
from gateway.config import ImagesConfig
from gateway.errors import Overloaded
from gateway.images import data_url, encode, handover, installed, plan, refusal
from gateway.images.aside import aside
from gateway.images.budget import Budget, Purpose
from gateway.images.encode import Form
from gateway.images.flights import Flights
from gateway.images.header import Header, HeaderError, read
from gateway.images.plan import Plan, Sizing
from gateway.images.pool import LONGEST_WAIT, NoRoom, NotDecoded, Pool
from gateway.images.shared import Memory
from gateway.images.shelf import Lease, Place, Shelf
from gateway.images.sniff import NAMES, Format, recognise, sniff
from gateway.images.task import Reason, Task

MAX_RATIO = 100  # longer side to shorter; no model makes sense of more, and some fail on it

_REMOTE = re.compile(r"https?:", re.IGNORECASE | re.ASCII)
_QUICKER = 8  # times, that base64 is written than most is done to as many bytes
_UNHURRIED = 25_000_000  # pixels for which a decoder gets as much time again
_UNHURRIED_HEIC = 8_000_000  # the same for the slowest

# Asked several times for each picture, on its way.
_planned = lru_cache(maxsize=256)(plan.plan)
_is_plain = lru_cache(maxsize=256)(handover.is_plain)
_MEDIA_TYPES: dict[Form, str] = {"png": "png", "bmp": "bmp", "ppm": "x-portable-pixmap"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it came. `digest` is the SHA-256 of its bytes in hex, the picture's identity everywhere."""

    data: bytes = field(repr=False)
    digest: str
    header: Header


def is_remote(url: str) -> bool:
    """Whether a picture has to be fetched, rather than being in its URL itself."""
    return _REMOTE.match(url) is not None


class Source(Protocol):
    """Where remote pictures come from: the `Fetcher`, or a test's."""

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The bytes behind the URL."""


class Ingest:
    """Loads pictures and hands them over, decoded by the pool. Use it as an async context manager.

    The event loop is never held up. `budgets` are where its memory comes from, when others have it as well.
    """

    def __init__(
        self,
        fetcher: Source,
        config: ImagesConfig,
        *,
        workers: int | None = None,
        shelf: Shelf | None = None,
        budgets: Mapping[Purpose, Budget] | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._config = config
        self._formats = installed.readable(config.formats)
        most = config.max_decoded
        budgets = budgets or {"decoding": Budget(most), "decoded": Budget(most)}
        self.pool = Pool(self._formats, most_memory=most, workers=workers, budget=budgets["decoding"])
        self.decoded = budgets["decoded"]
        self._flights: Flights[str] = Flights()
        self._pauses = Pauses()
        self.shelf = shelf or Shelf()

    async def __aenter__(self) -> "Ingest":
        self.shelf.__enter__()
        await self.pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pauses.close()
        await self.pool.__aexit__(kind, error, trace)
        self.shelf.__exit__(kind, error, trace)

    @property
    def pipeline(self) -> str:
        """Names everything of ours that shapes what engines get to see, for keys of answers and names of pictures."""
        name = plan.pipeline(self._config.resize)
        return name if self._config.handover == "decoded" else f"{name}-{self._config.handover}"

    async def load(self, url: str, *, param: str, hold: Callable[[int], None] | None = None) -> Encoded:
        """The picture that `url` leads to or holds: an http(s) URL, a data URL or bare base64.

        `hold` is told how many bytes were fetched; it may refuse them.

        Raises:
            PictureError: it cannot be had, is in no format that is read, over a limit or damaged; at `param`.
        """
        data, digest = await self._read(url, param)
        self._pauses.note(len(data))
        if hold is not None and is_remote(url):
            try:
                hold(len(data))
            except Overloaded:
                del data  # which the refusal's traceback would keep
                raise
        if sniff(data) not in self._formats:
            raise self._not_read(data, url, param)
        try:
            header = read(data)
        except HeaderError:
            raise refusal.damaged(param) from None
        self._check_size(header, param)
        return Encoded(data=data, digest=digest, header=header)

    def note(self, encoded: Encoded, sizing: Sizing) -> str:
        """What is done to the picture for a model of that sizing, in a line."""
        if self._stays(encoded.header, sizing):
            width, height = encoded.header.size
            return f"{width}x{height} {encoded.header.format} original"
        return plan.note(encoded.header, self._plan(encoded.header, sizing), self._config.resize)

    def lease(self, *, here: bool) -> Lease:
        """What a request needs for handing over its pictures, while its engine works; `here` says on this machine."""
        half = Budget(self._config.max_decoded // 2)  # so that others get through as well
        return Lease(half, self.decoded, self.shelf if here else None)

    async def reserve(self, pictures: Iterable[tuple[str, Encoded]], sizing: Sizing, lease: Lease) -> None:
        """Gets the memory in which what becomes of a request's pictures lies while its engine works.

        `pictures` are all of them, each with its `param`: requests that held some of that memory, and waited for more,
        could wait for one another for ever.

        Raises:
            PictureError: there is never so much.
            Overloaded: there was not so much in time.
        """
        sizes: dict[str, int] = {}
        for param, encoded in pictures:
            sizes[encoded.digest] = self._size(encoded, sizing, lease)
            if sum(sizes.values()) > self._config.max_decoded:
                raise refusal.too_laborious(param, "memory")
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                await lease.hold(sum(sizes.values()))
        except TimeoutError:
            sentence = "The decoded pictures of the requests under way fill the memory set aside. Try again soon."
            raise Overloaded(sentence, retry_after=5) from None

    async def hand_over(self, encoded: Encoded, sizing: Sizing, lease: Lease, *, param: str) -> str:
        """The picture as a URL for an engine: of a file in memory for one of this machine, else with the data in it.

        Raises:
            PictureError: it cannot be decoded, or not with the time and memory that its size allows; at `param`.
            Overloaded: there was no memory for it, or no worker, in time.
        """
        header, data = encoded.header, encoded.data
        if self._stays(header, sizing):
            return await aside(len(data) // _QUICKER, partial(data_url.encode, data, header.format))
        task = self._task(encoded, sizing, lease)
        if task.memory > self._config.max_decoded:
            raise refusal.too_laborious(param, "memory")
        try:
            async with lease.share.reserved(task.memory):
                return await self._decoded(task, encoded, lease)
        except NotDecoded as fault:
            raise _refused(fault.reason, param) from fault

    # --- the steps ---

    async def _decoded(self, task: Task, encoded: Encoded, lease: Lease) -> str:
        name, shelf = f"{encoded.digest}-{task.name}.{task.form}", lease.shelf
        if shelf is not None and shelf.ready:
            url = lease.take(name)
            with suppress(NoRoom):  # containers have little of that memory; other memory does as well
                if not shelf.has(name):
                    await self._flights.join(url, partial(self._shelved, task, encoded, shelf, name))
                return url
        return await self._flights.join(name, partial(self._in_text, task, encoded))

    async def _shelved(self, task: Task, encoded: Encoded, shelf: Shelf, name: str) -> str:
        await self.pool.decode(task, encoded.data, encoded.digest, partial(Place, shelf, name))
        return name

    async def _in_text(self, task: Task, encoded: Encoded) -> str:
        decoded = await self.pool.decode(task, encoded.data, encoded.digest, Memory)
        return await aside(len(decoded) // _QUICKER, partial(data_url.encode, decoded, _MEDIA_TYPES[task.form]))

    def _size(self, encoded: Encoded, sizing: Sizing, lease: Lease) -> int:
        """The most bytes that lie in memory of a picture that is handed over."""
        if self._stays(encoded.header, sizing):
            return len(encoded.data) * 4 // 3
        room = self._task(encoded, sizing, lease).room
        return room if lease.shelf is not None and lease.shelf.ready else room * 4 // 3  # which is base64

    async def _read(self, url: str, param: str) -> tuple[bytes, str]:
        """The picture's bytes, and their digest."""
        if is_remote(url):
            data = await self._fetcher.fetch(url, param=param)
            return data, await aside(len(data), partial(_digest, data))
        return await aside(len(url), partial(self._decoded_base64, url, param))

    def _decoded_base64(self, url: str, param: str) -> tuple[bytes, str]:
        data = data_url.decode(url, param=param, max_bytes=self._config.max_bytes, formats=self._formats)
        return data, _digest(data)

    def _not_read(self, data: bytes, url: str, param: str) -> Exception:
        found = recognise(data) or "no picture, or in a format that is not known"
        kind, label = sniff(data), data_url.label(url)
        if is_remote(url):
            sentence = f"The URL at '{param}' returned {found}"
        elif label is not None and (kind is None or label != NAMES[kind].upper()):
            sentence = f"The label at '{param}' says {label}, but the bytes are {found}"
        else:
            sentence = f"The bytes at '{param}' are {found}"
        return refusal.not_read(param, sentence, self._formats, self._advice(kind))

    def _advice(self, kind: Format | None) -> str:
        if kind is None:
            return ""
        if kind in self._config.formats:
            return f", or have 'altgate[{kind}]' installed on the server"
        return f', or have it enabled on the server: images.formats = [..., "{kind}"]'

    def _check_size(self, header: Header, param: str) -> None:
        short, long = sorted(header.size)
        if short * long > self._config.max_pixels:
            raise refusal.too_many_pixels(param, header.size, self._config.max_pixels)
        if long > MAX_RATIO * short:
            raise refusal.too_oblong(param, header.size, MAX_RATIO)

    def _stays(self, header: Header, sizing: Sizing) -> bool:
        return self._config.handover == "original" and _is_plain(header, sizing)

    def _plan(self, header: Header, sizing: Sizing) -> Plan:
        return _planned(header, sizing, self._config.resize)

    def _task(self, encoded: Encoded, sizing: Sizing, lease: Lease) -> Task:
        header, wanted = encoded.header, self._plan(encoded.header, sizing)
        # For an engine of ours, what costs both sides the least: pixels as they are. Else what every server reads.
        form: Form = "ppm" if lease.shelf is not None else "png"
        room = encode.length(form, wanted.size)
        unhurried = _UNHURRIED_HEIC if header.format == "heic" else _UNHURRIED
        seconds = self._config.decode_timeout * (1 + math.prod(header.size) / unhurried)
        memory = plan.decoded_bytes(header, wanted) + 2 * (len(encoded.data) + room)  # shared, and the worker's own
        return Task(header.format, wanted, form, len(encoded.data), room, memory, seconds)


def _refused(reason: Reason, param: str) -> Exception:
    match reason:
        case "time" | "memory":
            return refusal.too_laborious(param, reason)
        case "deadly" | "damaged":
            return refusal.damaged(param)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
