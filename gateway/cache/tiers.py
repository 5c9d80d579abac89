"""The cache: a small, quick one in this process, and Redis behind it where there is one."""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial

from gateway import wire
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.cache.removals import REMEMBERED, Removals
from gateway.cache.selection import Selection
from gateway.cache.shared import SharedStore
from gateway.cache.stored import Stored
from gateway.cache.tally import Tally
from gateway.config import CacheConfig
from gateway.redis import Link
from gateway.shared import Unanswered

JITTER = 0.1  # of the time to live: answers that were made together should not all have to be made again together
TRUSTED = 30.0  # seconds


class Cache:
    """Never fails a request: what cannot be read is a miss.

    What lies in Redis and has been in this process for `TRUSTED` seconds is looked for there again: another gateway's
    administrator may have removed it. While Redis is away, the process's own stands. Those in `on_outdated` are called
    with what is removed: whoever has answers in the making, or knows of them.
    """

    def __init__(self, memory: MemoryStore, shared: SharedStore | None = None, *, ttl: float) -> None:
        self._memory = memory
        self._shared = shared
        self._ttl = ttl
        self._looks: dict[str, asyncio.Task[Stored | Unanswered | None]] = {}
        self._removals = Removals()
        self._removing: list[Selection] = []
        self.on_outdated: list[Callable[[Selection], None]] = []
        self.tally = Tally()

    @property
    def description(self) -> str:
        """For people: what kind of cache this is."""
        behind = f", and {self._shared.description}" if self._shared is not None else ""
        return f"{self._memory.description}{behind}"

    @property
    def in_memory(self) -> wire.Amount:
        """What this process holds."""
        return self._memory.amount

    @property
    def not_shared(self) -> int:
        """How many answers Redis was to have and was not given."""
        return self._shared.lost if self._shared is not None else 0

    async def get(self, key: str) -> Stored | None:
        """The answer under a key, None when there is none that can be used."""
        near = self._memory.get(key) if not self._is_going(key) else None
        if self._shared is None or (near is not None and self._memory.here_for(key) < TRUSTED):
            return near
        if key not in self._looks:
            self._looks[key] = asyncio.create_task(self._look(key, self._shared))
        far = await asyncio.shield(self._looks[key])
        return near if isinstance(far, Unanswered) else far

    async def _look(self, key: str, shared: SharedStore) -> Stored | Unanswered | None:
        """Looks in Redis, once for all who ask at the same time; what is found there is from then on here too."""
        try:
            far = await shared.get(key)
        except Unanswered as away:
            return away
        finally:
            del self._looks[key]
        if far is None or self._removals.hold(key, far.age(time.time()) + far.seconds):
            self._memory.drop(key)
            return None
        self._memory.put(far)
        return far

    def keep(
        self,
        key: str,
        choices: list[wire.Choice],
        usage: wire.Usage,
        *,
        seconds: float,
    ) -> None:
        """Keeps an answer that took so many seconds, without making anyone wait; one removed meanwhile is not kept."""
        made = time.time()
        lives = self._ttl * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
        value = Stored(
            key=key,
            made=made,
            expires=made + lives,
            seconds=seconds,
            choices=choices,
            usage=usage,
        )
        if seconds >= REMEMBERED or self._removals.hold(key, seconds):
            return
        self._memory.put(value)
        if self._shared is not None:
            self._shared.put(value, removed=partial(self._memory.drop, key))

    async def remove(self, selection: Selection) -> wire.CacheRemoved:
        """Removes the answers that are meant, those that are being made too.

        What other gateways hold in memory goes within `TRUSTED` seconds.
        """
        amount = await self.remove_own(selection)
        shared = await self._shared.remove(selection) if self._shared is not None else None
        return wire.CacheRemoved(memory=amount, redis=shared)

    async def remove_own(self, selection: Selection) -> wire.Amount:
        """Removes them here. From now on none that is meant is found, kept or shared whose making began before."""
        self._removals.note(selection)
        for tell in self.on_outdated:
            tell(selection)
        self._removing.append(selection)
        try:
            return await self._memory.remove(selection)
        finally:
            self._removing.remove(selection)

    def _is_going(self, key: str) -> bool:
        """Whether an answer is being removed, which takes its time."""
        return bool(self._removing) and any(selection.holds(key) for selection in self._removing)

    async def report(self) -> wire.CacheReport:
        """What it has been good for, and what it holds."""
        return self.own_report(redis=await self._shared.count() if self._shared is not None else None)

    def own_report(self, *, redis: wire.Amount | None = None) -> wire.CacheReport:
        """What it has been good for in this process, and what it holds there."""
        return wire.CacheReport(
            hits=self.tally.hits,
            joins=self.tally.joins,
            misses=self.tally.misses,
            bypasses=self.tally.bypasses,
            saved_seconds=round(self.tally.seconds, 3),
            saved_tokens=self.tally.tokens,
            not_shared=self.not_shared,
            memory=self._memory.amount,
            redis=redis,
        )


def opened(config: CacheConfig, link: Link | None) -> Cache:
    """The cache that the configuration asks for."""
    shared = RedisStore(link) if link is not None else None
    return Cache(MemoryStore(max_bytes=config.max_bytes), shared, ttl=config.ttl)
