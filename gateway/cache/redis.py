"""Answers in Redis, for all gateways that share it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from operator import methodcaller

from gateway.cache.key import VERSION
from gateway.cache.selection import Selection
from gateway.cache.stored import MAX_VALUE, Stored, encode, read
from gateway.redis import Link
from gateway.shared import Unanswered
from gateway.wire import Amount

PREFIX = f"altgate:answer:v{VERSION}:"
LOOK_THROUGH = 30.0  # seconds that looking through all names may take
SCANNED = 2000  # names that Redis looks at in one go
AT_ONCE = 250  # answers that are removed, or whose size is asked for, in one go
BATCH_PATIENCE = 1.0  # seconds


def name(key: str) -> str:
    """What an answer is called in Redis. In a cluster, what stands in braces says on which node it is."""
    return f"{PREFIX}{{{key}}}"


class RedisStore:
    """Every name begins with `PREFIX` and has a time to live. Works with one Redis and with a cluster."""

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
        data = await self._link.ask(lambda redis: redis.getrange(name(key), 0, MAX_VALUE))
        return read(data, key, time.time()) if isinstance(data, bytes) else None

    def put(self, value: Stored) -> None:
        """Queues an answer to be written."""
        data, left = encode(value), round((value.expires - time.time()) * 1000)
        if len(data) <= MAX_VALUE and left > 0:
            self._link.tell(lambda redis: redis.set(name(value.key), data, px=left), size=len(data))

    async def count(self) -> Amount:
        """What all gateways keep here."""
        return await self._through(Selection(), removing=False)

    async def remove(self, selection: Selection) -> Amount:
        """Removes the answers that are meant, and nothing else."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_PATIENCE):
                await self._link.told()
        return await self._through(selection, removing=True)

    async def _through(self, selection: Selection, *, removing: bool) -> Amount:
        """Counts the answers that are meant, and removes them if told to."""
        entries = size = 0
        with suppress(Unanswered, TimeoutError):
            async with asyncio.timeout(LOOK_THROUGH):
                async for names in self._names(selection):
                    sizes = await self._removed(names) if removing else await self._sizes(names)
                    entries, size = entries + len(sizes), size + sum(sizes)
                return Amount(entries=entries, bytes=size)
        return Amount(entries=entries, bytes=size, complete=False)

    async def _sizes(self, names: Sequence[bytes]) -> list[int]:
        """The bytes of those answers; 0 for what lies there under an answer's name and is none."""
        lengths = await self._link.ask_all([methodcaller("strlen", each) for each in names], patience=BATCH_PATIENCE)
        return [length if isinstance(length, int) else 0 for length in lengths]

    async def _removed(self, names: Sequence[bytes]) -> list[int]:
        """The bytes of those of the answers that were there, and are gone now.

        Raises:
            Unanswered: Redis refuses.
        """
        sizes = await self._sizes(names)
        gone = await self._link.ask_all(
            [methodcaller("execute_command", "UNLINK", each) for each in names], patience=BATCH_PATIENCE
        )
        if refused := next((each for each in gone if isinstance(each, Unanswered)), None):
            raise refused
        return [size for size, count in zip(sizes, gone, strict=True) if count]

    async def _names(self, selection: Selection) -> AsyncIterator[list[bytes]]:
        """The names of the answers that are meant, some at a time."""
        some: list[bytes] = []
        pattern = name(selection.pattern)
        async for found in self._link.each(lambda redis: redis.scan_iter(match=pattern, count=SCANNED)):
            if selection.holds(_key(found)):
                some.append(found)
            if len(some) == AT_ONCE:
                yield some
                some = []
        if some:
            yield some


def _key(found: bytes) -> str:
    """The key in a name, or what is none."""
    return found.decode(errors="replace").removeprefix(f"{PREFIX}{{").removesuffix("}")
