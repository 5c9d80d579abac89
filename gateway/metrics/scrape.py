"""One scrape: the samples of this process, or of all that are one gateway."""

import asyncio
from collections.abc import Callable, Sequence

from gateway.errors import EngineUnavailable
from gateway.limits import Gate
from gateway.metrics import METRICS
from gateway.metrics.counts import Counts, Sample, decode, encode, merged
from gateway.metrics.exposition import exposed
from gateway.metrics.readings import readings
from gateway.parts import Parts


class Scrape:
    """Reads the counts, and the parts at that moment; `before` is called before that."""

    def __init__(self, counts: Counts, parts: Parts, gate: Gate, before: Callable[[], None]) -> None:
        self._counts = counts
        self._before = before
        self._parts = parts
        self._gate = gate
        self._siblings = parts.backing.siblings
        if self._siblings is not None:
            self._siblings.answers[METRICS] = self._own

    def samples(self) -> list[Sample]:
        """Everything that is known of this process."""
        self._before()
        return [*self._counts.samples(), *readings(self._parts, self._gate)]

    async def exposed(self) -> bytes:
        """The answer to a scrape; written aside, so that requests do not wait for it.

        Raises:
            EngineUnavailable: a worker does not answer. Without its numbers, what is counted would seem to go back.
        """
        if self._siblings is None:
            return await asyncio.to_thread(exposed, self.samples())
        told = await self._siblings.gather(METRICS)
        if told.missing:
            raise EngineUnavailable("A worker of this gateway does not answer. Scrape again.")
        return await asyncio.to_thread(_merged, told.answers)

    async def _own(self, _: bytes) -> bytes:
        return encode(self.samples())


def _merged(answers: Sequence[bytes]) -> bytes:
    return exposed(merged(map(decode, answers)))
