"""Requests whose answers were found, known again by their bytes.

Whoever asks again, in a retry or about a picture that many ask about, mostly sends the very same bytes. To read them
anew, decode their pictures from base64 and digest these takes most of the time of an answer from the cache; to compare
them with bytes that came before takes a small part of it, and is exact. What is known of a request is its key and what
is told of its pictures; the answer itself is looked up each time.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.auth import Caller
from gateway.cache import Cache
from gateway.captioning import Job
from gateway.record import Record
from gateway.wire import ChatRequest

ALIKE = 8  # requests of one caller that have the same length
KEPT_FOR, TIDY_EVERY = 300.0, 30.0  # seconds: what clients have sent is not to stay for long
BESIDE, BESIDE_PICTURE = 3_000, 400  # bytes, about, that are kept beside a body, and for each picture in it
NOTHING = ChatRequest(messages=[], model="")


class Known(Struct, kw_only=True, eq=False):
    """A request's body, its fields that are ignored, and the job that it is, but for the answer and what was asked.

    `since` is when it was last sent, by the monotonic clock.
    """

    body: bytes
    ignored: Sequence[str]
    job: Job
    since: float

    @property
    def name(self) -> tuple[Caller, int]:
        """Who sends it, and how long it is."""
        return self.job.record.caller, len(self.body)

    @property
    def pictures(self) -> int:
        """How many pictures it has."""
        return len(self.job.record.digests)

    @property
    def weight(self) -> int:
        """The bytes that it takes, about."""
        return len(self.body) + BESIDE + BESIDE_PICTURE * self.pictures

    def says(self, blocks: Sequence[bytes]) -> bool:
        """Whether these blocks, as many bytes in all, are the body."""
        at = 0
        for block in blocks:
            if not self.body.startswith(block, at):
                return False
            at += len(block)
        return True


class Recall:
    """Forgets what was sent least recently when all together exceeds `max_bytes`, and what was not sent for a while.

    A caller is known with all that it may do, so that one whose key has changed is not known any more. When answers are
    removed, all is forgotten.
    """

    def __init__(self, cache: Cache, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._clock = clock
        self._sent: OrderedDict[tuple[Caller, int], list[Known]] = OrderedDict()  # the latest last, and first in a list
        self._tidying: asyncio.TimerHandle | None = None
        self.bytes = 0
        cache.on_outdated.append(lambda _: self.clear())

    def find(self, caller: Caller, blocks: Sequence[bytes]) -> Known | None:
        """The request that the blocks of a body are, if this caller has sent it before."""
        alike = self._sent.get((caller, sum(map(len, blocks))), ())
        return next((known for known in alike if known.says(blocks)), None)

    async def job(self, known: Known, record: Record) -> Job | None:
        """The request once more, with its answer; None where that is not kept any more. `record` is told of it."""
        record.enter("cache")
        found = await self._cache.get(known.job.key or "")
        record.enter(None)
        if found is None:
            self._forget(known)
            return None
        self._touch(known)
        record.resemble(known.job.record)
        record.cache = "hit"
        return known.job.again(record, found)

    def note(self, body: bytes, job: Job, ignored: Sequence[str]) -> None:
        """Remembers a request, if its answer was found and it says all by itself."""
        if job.found is None or not job.is_whole or job.record.keeps_prompt:
            return
        record = Record(caller=job.record.caller)
        record.resemble(job.record)
        bare = replace(job, record=record, asked=NOTHING, found=None, wait=None)
        known = Known(body=body, ignored=ignored, job=bare, since=self._clock())
        if known.weight <= self._max_bytes and self.find(record.caller, [body]) is None:
            self._keep(known)
        if self._sent and self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(TIDY_EVERY, self._tidy)

    def clear(self) -> None:
        """Forgets everything."""
        self._sent.clear()
        self.bytes = 0

    def tidy(self) -> None:
        """Forgets what was not sent for a while."""
        oldest = self._clock() - KEPT_FOR
        for known in [known for alike in self._sent.values() for known in alike if known.since <= oldest]:
            self._forget(known)

    def _tidy(self) -> None:
        self._tidying = None
        self.tidy()
        if self._sent:
            self._tidying = asyncio.get_running_loop().call_later(TIDY_EVERY, self._tidy)

    def _keep(self, known: Known) -> None:
        alike = self._sent.setdefault(known.name, [])
        alike.insert(0, known)
        self.bytes += known.weight
        self._sent.move_to_end(known.name)
        if len(alike) > ALIKE:
            self._forget(alike[-1])
        while self.bytes > self._max_bytes:
            self._forget(next(iter(self._sent.values()))[-1])

    def _touch(self, known: Known) -> None:
        """It was sent just now; it may have been forgotten meanwhile."""
        alike = self._sent.get(known.name, [])
        if known in alike:
            alike.remove(known)
            alike.insert(0, known)
            known.since = self._clock()
            self._sent.move_to_end(known.name)

    def _forget(self, known: Known) -> None:
        alike = self._sent.get(known.name, [])
        if known in alike:
            alike.remove(known)
            self.bytes -= known.weight
            if not alike:
                del self._sent[known.name]
