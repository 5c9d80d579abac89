"""Answers in Redis, for all gateways that share it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial

from gateway.cache.key import VERSION
from gateway.cache.selection import Selection
from gateway.cache.stored import MAX_VALUE, Stored, encode, read, read_label
from gateway.redis import Link, Unanswered
from gateway.wire import Amount

PREFIX = f"altgate:answer:v{VERSION}:"
LOOK_THROUGH = 10.0  # seconds that looking through all answers may take
SCANNED = 500  # names that Redis looks at in one go
AT_ONCE = 8  # of the link's connections; the rest is left to requests
BATCH_PATIENCE = 1.0  # seconds


class RedisStore:
    """Every key begins with `PREFIX` and has a time to live. Works with one Redis and with a cluster."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def description(self) -> str:
        """For people. The URL may hold a password, so it is not in it."""
        return "Redis, which does not answer now" if self._link.is_down else "Redis"

    async def get(self, key: str) -> Stored | None:
        """The answer under a key.

        Raises:
            Unanswered: Redis did not say.
        """
        # Not GET: a value that is not ours may be of any size.
        data = await self._link.ask(lambda redis: redis.getrange(PREFIX + key, 0, MAX_VALUE))
        return read(data, key, time.time()) if isinstance(data, bytes) else None

    def put(self, value: Stored) -> None:
        """Queues an answer to be written."""
        data, left = encode(value), round((value.expires - time.time()) * 1000)
        if len(data) <= MAX_VALUE and left > 0:
            self._link.tell(lambda redis: redis.set(PREFIX + value.key, data, px=left))

    async def count(self) -> Amount:
        """What all gateways keep here."""
        return await self._through(Selection(), self._size)

    async def remove(self, selection: Selection) -> Amount:
        """Removes the answers that are meant, and nothing else."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_PATIENCE):
                await self._link.told()
        return await self._through(selection, partial(self._removed, selection))

    async def _through(self, selection: Selection, work: Callable[[bytes], Awaitable[int]]) -> Amount:
        """Does the work on every key that can be meant, and adds up the bytes that it tells; 0 is one not meant."""
        entries = size = 0
        with suppress(Unanswered, TimeoutError):
            async with asyncio.timeout(LOOK_THROUGH):
                async for names in self._names(selection.beginning):
                    sizes = await asyncio.gather(*map(work, names))
                    entries, size = entries + sum(map(bool, sizes)), size + sum(sizes)
                return Amount(entries=entries, bytes=size)
        return Amount(entries=entries, bytes=size, complete=False)

    async def _names(self, beginning: str) -> AsyncIterator[list[bytes]]:
        """The names of the keys that begin so, some at a time."""

        some: list[bytes] = []
        async for name in self._link.each(lambda redis: redis.scan_iter(match=f"{PREFIX}{beginning}*", count=SCANNED)):
            some.append(name)
            if len(some) == AT_ONCE:
                yield some
                some = []
        if some:
            yield some

    async def _size(self, name: bytes) -> int:
        return int(await self._link.ask(lambda redis: redis.strlen(name), patience=BATCH_PATIENCE))

    async def _removed(self, selection: Selection, name: bytes) -> int:
        """The bytes of an answer that was meant and is gone now."""
        data = await self._link.ask(lambda redis: redis.getrange(name, 0, MAX_VALUE), patience=BATCH_PATIENCE)
        label = read_label(data)
        if not selection.is_by_key and (label is None or not selection.holds(label)):
            return 0
        await self._link.ask(lambda redis: redis.unlink(name), patience=BATCH_PATIENCE)
        return len(data)
