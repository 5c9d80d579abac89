"""One scrape: this process's samples."""

import asyncio

from gateway.limits import Gate
from gateway.metrics.counts import Counts, Sample
from gateway.metrics.exposition import exposed
from gateway.metrics.readings import readings
from gateway.parts import Parts


class Scrape:
    """Reads the counts, and the parts at that moment."""

    def __init__(self, counts: Counts, parts: Parts, gate: Gate) -> None:
        self._counts = counts
        self._parts = parts
        self._gate = gate

    def samples(self) -> list[Sample]:
        """Everything that is known of this process."""
        return [*self._counts.samples(), *readings(self._parts, self._gate)]

    async def exposed(self) -> bytes:
        """The answer to a scrape; written aside, so that requests do not wait for it."""
        return await asyncio.to_thread(exposed, self.samples())
