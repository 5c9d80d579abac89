"""Answers in Redis, for all gateways that share it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import Any

from msgspec.structs import replace

from gateway.cache.key import VERSION
from gateway.cache.notes import Notes, Writing
from gateway.cache.selection import Selection
from gateway.cache.stored import MAX_VALUE, Stored, encode, read
from gateway.redis import Link
from gateway.shared import Unanswered
from gateway.wire import Amount

PREFIX = f"altgate:answer:v{VERSION}:"
LOOK_THROUGH = 30.0  # seconds that looking through all names may take
SCANNED = 1000  # names that Redis looks at in one go
AT_ONCE = 250  # answers that are removed, or whose size is asked for, in one go
BATCH_PATIENCE = 1.0  # seconds


# What lies under an answer's name and is none has no length, and goes as well.
_WEIGH = """
local entries, bytes = 0, 0
for _, name in ipairs(KEYS) do
  local length = redis.pcall('STRLEN', name)
  if ARGV[1] ~= 'remove' or redis.call('UNLINK', name) == 1 then
    entries = entries + 1
    if type(length) == 'number' then bytes = bytes + length end
  end
end
return {entries, bytes}
"""


def name(key: str) -> str:
    """What an answer is called in Redis. In a cluster, what stands in braces says on which node it is."""
    return f"{PREFIX}{{{key}}}"


class RedisStore:
    """Every name begins with `PREFIX` and has a time to live. Works with one Redis and with a cluster."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._notes = Notes(link)
        self.lost = 0

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

    def put(self, value: Stored, *, removed: Callable[[], None]) -> None:
        """Queues an answer to be written, unless it was removed while it was made."""
        data, lives = encode(value), round((value.expires - time.time()) * 1000)
        if len(data) <= MAX_VALUE and lives > 0:
            began = time.monotonic() - value.seconds
            self._notes.write(Writing(value.key, name(value.key), data, lives, began, lost=self._lose, meant=removed))

    async def count(self) -> Amount:
        """What all gateways keep here."""
        return await self._through(Selection(), removing=False)

    async def remove(self, selection: Selection) -> Amount:
        """Removes the answers that are meant, and nothing else; of those that are being made it leaves a note."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_PATIENCE):
                await self._link.told()
        is_noted = await self._notes.add(selection)
        amount = await self._through(selection, removing=True)
        return amount if is_noted else replace(amount, complete=False)

    def _lose(self) -> None:
        self.lost += 1

    async def _through(self, selection: Selection, *, removing: bool) -> Amount:
        """Counts the answers that are meant, and removes them if told to."""
        entries = size = 0
        with suppress(Unanswered, TimeoutError):
            async with asyncio.timeout(LOOK_THROUGH):
                async for names in self._names(selection):
                    more_entries, more_bytes = await self._weighed(names, removing=removing)
                    entries, size = entries + more_entries, size + more_bytes
                return Amount(entries=entries, bytes=size)
        return Amount(entries=entries, bytes=size, complete=False)

    async def _weighed(self, names: Sequence[bytes], *, removing: bool) -> tuple[int, int]:
        """How many of them were there, and how many bytes; they are gone now if that was wanted.

        Raises:
            Unanswered: Redis refuses.
        """
        if not self._link.is_cluster:
            command = methodcaller("eval", _WEIGH, len(names), *names, "remove" if removing else "")
            entries, size = await self._link.ask(command, patience=BATCH_PATIENCE)
            return entries, size
        lengths = await self._each("STRLEN", names)  # in a cluster they lie on several nodes
        gone = await self._each("UNLINK", names) if removing else [1] * len(names)
        if refused := next((each for each in gone if isinstance(each, Unanswered)), None):
            raise refused
        sizes = [length if isinstance(length, int) else 0 for length in lengths]
        return sum(gone), sum(size for size, was_there in zip(sizes, gone, strict=True) if was_there)

    async def _each(self, command: str, names: Sequence[bytes]) -> list[Any]:
        commands = [methodcaller("execute_command", command, each) for each in names]
        return await self._link.ask_all(commands, patience=BATCH_PATIENCE)

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
