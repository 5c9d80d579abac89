"""Usage in Redis, for all gateways that share it: a hash for each day.

A day's hash has a field for each counter of an account, and one for each writer with the number of its last batch. So a
batch is added once however often it is sent, and what is known of that lasts for as long as the counts themselves.
It has no time to live: a Redis that makes room by removing what has one (`volatile-…`) leaves it alone.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import date, timedelta
from typing import Any

from gateway.redis import Link
from gateway.shared import Unanswered
from gateway.usage.counts import COUNTERS, Account, Batch, Counts, Query
from gateway.usage.store import MAX_ROWS, TooMuch, Unkept
from gateway.wire import KeptIn

log = logging.getLogger(__name__)

PREFIX = "altgate:usage:v1:"
PATIENCE = 0.5  # seconds: nobody waits for it
READING = 10.0  # seconds
SCANNED = 1000  # fields that Redis looks at in one go
LEFTOVERS = 60  # days: what no gateway was there to forget for longer than that stays
_SEPARATOR = "|"  # which no name has in it
_WRITER = "#"

# The number goes first: should anything after it fail, the batch is not added a second time.
_ADD = """
local last = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if last >= tonumber(ARGV[2]) then return 0 end
redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2] - last)
for i = 3, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""


class SharedStore:
    """The hashes in Redis. One that may remove them to make room is complained of once a day."""

    kept: KeptIn = "redis"

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, batch: Batch) -> None:
        """Adds a batch, unless it was added before."""
        fields = [
            word
            for account, counts in batch.counts.items()
            for name in COUNTERS
            if (amount := getattr(counts, name))
            for word in (_SEPARATOR.join((*account[1:], name)), amount)
        ]
        await self._ask(
            lambda redis: redis.eval(_ADD, 1, PREFIX + batch.day, _WRITER + batch.writer, batch.number, *fields)
        )

    async def read(self, query: Query) -> Mapping[Account, Counts]:
        """The sums of each group."""
        groups: dict[Account, Counts] = {}
        try:
            async with asyncio.timeout(READING):
                for day in _days(query.first, query.last):
                    async for account, name, amount in self._amounts(day):
                        if query.holds(account):
                            counts = groups.setdefault(query.group(account), Counts())
                            setattr(counts, name, getattr(counts, name) + amount)
                    if len(groups) > MAX_ROWS:
                        raise TooMuch
        except (Unanswered, TimeoutError):
            raise Unkept("Redis does not answer") from None
        return groups

    async def tidy(self, before: str) -> None:
        """Forgets the days before that one."""
        first = date.fromisoformat(before) - timedelta(days=LEFTOVERS)
        for day in _days(first.isoformat(), before):
            if day != before:
                await self._forget(PREFIX + day)
        with suppress(Unkept):  # not everyone may ask
            memory = await self._ask(lambda redis: redis.info("memory"))
            if str(memory.get("maxmemory_policy")).startswith("allkeys"):
                log.warning(
                    "Redis removes the counts of usage, too, when it is full: its maxmemory-policy is %s. "
                    "Set it to volatile-lru, which removes answers of the cache alone",
                    memory["maxmemory_policy"],
                )

    async def close(self) -> None:
        """The link is not this store's."""

    async def _amounts(self, day: str) -> AsyncIterator[tuple[Account, str, int]]:
        """Each counter of each account. A scan may tell a field twice: an amount counts when all are known."""
        found: dict[str, int] = {}
        async for field, amount in self._link.each(lambda redis: redis.hscan_iter(PREFIX + day, count=SCANNED)):
            found[field.decode()] = int(amount)
        for field, amount in found.items():
            match field.split(_SEPARATOR):
                case [key, team, model, name] if name in COUNTERS:
                    yield Account(day, key, team, model), name, amount

    async def _forget(self, name: str) -> None:
        await self._ask(lambda redis: redis.unlink(name))

    async def _ask(self, command: Any) -> Any:
        try:
            return await self._link.ask(command, patience=PATIENCE)
        except Unanswered as error:
            raise Unkept(f"Redis: {error}") from None


def _days(first: str, last: str) -> list[str]:
    """The days from the first to the last, both included."""
    start = date.fromisoformat(first)
    return [(start + timedelta(days=each)).isoformat() for each in range((date.fromisoformat(last) - start).days + 1)]
