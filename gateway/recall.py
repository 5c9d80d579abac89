"""Requests whose answers were found, known again by their bytes.

Whoever asks again, in a retry or about a picture that many ask about, mostly sends the very same bytes. To read them
anew, decode their pictures from base64 and digest these takes most of the time of an answer from the cache; to compare
them with bytes that came before takes a twentieth of it, and is exact. What is known of a request is its key and what
is told of its pictures; the answer itself is looked up each time.
"""

from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.auth import Caller
from gateway.cache import Cache, Selection
from gateway.captioning import Job
from gateway.record import Record
from gateway.wire import ChatRequest

ALIKE = 4  # requests of one caller that have the same length
OVERHEAD = 2_000  # bytes, about, that are kept beside a body
NOTHING = ChatRequest(messages=[], model="")


class Known(Struct, frozen=True, kw_only=True):
    """A request's body, its fields that are ignored, and the job that it is, but for the answer and what was asked."""

    body: bytes
    ignored: Sequence[str]
    job: Job

    def says(self, blocks: Sequence[bytes]) -> bool:
        """Whether these blocks, as many bytes in all, are the body."""
        at = 0
        for block in blocks:
            if not self.body.startswith(block, at):
                return False
            at += len(block)
        return True


class Recall:
    """Forgets the bodies that were sent least recently when all together exceed `max_bytes`.

    A caller is known with all that it may do, so that one whose key has changed is not known any more.
    """

    def __init__(self, cache: Cache, *, max_bytes: int) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[Caller, int], tuple[Known, ...]] = OrderedDict()
        self.bytes = 0
        cache.on_outdated.append(self.forget)

    def find(self, caller: Caller, blocks: Sequence[bytes]) -> Known | None:
        """The request that the blocks of a body are, if this caller has sent it before."""
        name = (caller, sum(map(len, blocks)))
        for known in self._known.get(name, ()):
            if known.says(blocks):
                self._known.move_to_end(name)
                return known
        return None

    async def job(self, known: Known, record: Record) -> Job | None:
        """The request once more, with its answer; None where that is not kept any more. `record` is told of it."""
        record.resemble(known.job.record)
        record.enter("cache")
        found = await self._cache.get(known.job.key or "")
        record.enter(None)
        if found is None:
            return None
        record.cache = "hit"
        return known.job.again(record, found)

    def note(self, body: bytes, job: Job, ignored: Sequence[str]) -> None:
        """Remembers a request, if its answer was found and it says all by itself."""
        is_kept = job.found is not None and job.is_whole and not job.record.keeps_prompt
        if not is_kept or _weight(body) > self._max_bytes:
            return
        record = Record(caller=job.record.caller)
        record.resemble(job.record)
        bare = replace(job, record=record, asked=NOTHING, found=None, wait=None)
        known, name = Known(body=body, ignored=ignored, job=bare), (record.caller, len(body))
        others = [each for each in self._known.get(name, ()) if each.body != body]
        self._put(name, (known, *others[: ALIKE - 1]))
        while self.bytes > self._max_bytes:
            self._put(next(iter(self._known)), ())

    def forget(self, selection: Selection) -> None:
        """Forgets the requests whose answers are meant."""
        for name, alike in [*self._known.items()]:
            rest = tuple(known for known in alike if not selection.holds(known.job.key or ""))
            if len(rest) < len(alike):
                self._put(name, rest)

    def _put(self, name: tuple[Caller, int], alike: tuple[Known, ...]) -> None:
        self.bytes -= sum(_weight(known.body) for known in self._known.pop(name, ()))
        if alike:
            self._known[name] = alike
            self.bytes += sum(_weight(known.body) for known in alike)


def _weight(body: bytes) -> int:
    return len(body) + OVERHEAD
