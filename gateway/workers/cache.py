"""The cache of one worker of several: what administrators do or ask holds for all of them at once."""

from collections.abc import Iterable

import msgspec

from gateway import wire
from gateway.cache import Cache, Selection
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.wire import Amount
from gateway.workers.contact import Contact
from gateway.workers.stores import OwnerStore

REPORT, FORGET = "cache.report", "cache.forget"  # questions to all workers

_encode_selection = msgspec.msgpack.encode
_decode_selection = msgspec.msgpack.Decoder(Selection).decode


class WorkerCache(Cache):
    """Copies in this process, and behind them Redis, or the owner's memory where there is none.

    What the owner has is what is told of memory: the workers' copies come on top, and hold nothing else.
    """

    def __init__(self, contact: Contact, memory: MemoryStore, shared: RedisStore | OwnerStore, *, ttl: float) -> None:
        super().__init__(memory, shared, ttl=ttl)
        self._contact = contact
        self._behind = shared
        contact.answers[REPORT] = self._report_own
        contact.answers[FORGET] = self._forget_own

    @property
    def description(self) -> str:
        """For people: what kind of cache this is."""
        return self._behind.description if isinstance(self._behind, OwnerStore) else super().description

    async def remove(self, selection: Selection) -> wire.CacheRemoved:
        """Removes the answers that are meant, from all workers; other gateways' go later, as with one process."""
        # The workers first: what one of them had kept before it heard of this is there to be removed afterwards.
        told = await self._contact.gather(FORGET, _encode_selection(selection))
        amount = await self._behind.remove(selection)
        copies = _sum((wire.decode_removed(answer).memory for answer in told.answers), complete=not told.missing)
        if isinstance(self._behind, OwnerStore):
            complete = amount.complete and copies.complete
            return wire.CacheRemoved(memory=msgspec.structs.replace(amount, complete=complete), redis=None)
        return wire.CacheRemoved(memory=copies, redis=amount)

    async def report(self) -> wire.CacheReport:
        """What it has been good for in all workers, and what it holds."""
        amount = await self._behind.count()
        told = await self._contact.gather(REPORT)
        reports = [wire.decode_report(answer) for answer in told.answers]
        copies = _sum((report.memory for report in reports), complete=not told.missing)
        by_owner = isinstance(self._behind, OwnerStore)
        return wire.CacheReport(
            hits=sum(report.hits for report in reports),
            joins=sum(report.joins for report in reports),
            misses=sum(report.misses for report in reports),
            bypasses=sum(report.bypasses for report in reports),
            saved_seconds=round(sum(report.saved_seconds for report in reports), 3),
            saved_tokens=sum(report.saved_tokens for report in reports),
            not_shared=sum(report.not_shared for report in reports),
            memory=amount if by_owner else copies,
            redis=None if by_owner else amount,
        )

    async def _report_own(self, _: bytes) -> bytes:
        return wire.encode(self.own_report())

    async def _forget_own(self, about: bytes) -> bytes:
        return wire.encode(wire.CacheRemoved(memory=await self.remove_own(_decode_selection(about)), redis=None))


def _sum(amounts: Iterable[Amount], *, complete: bool) -> Amount:
    known = [*amounts]
    return Amount(
        entries=sum(amount.entries for amount in known),
        bytes=sum(amount.bytes for amount in known),
        complete=complete and all(amount.complete for amount in known),
    )
