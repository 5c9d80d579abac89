"""Answers in this process."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from gateway.cache.selection import Selection
from gateway.cache.stored import Stored, encode, read
from gateway.wire import Amount

AT_ONCE = 200  # answers that are looked through before others have their turn


class _Entry(Struct, frozen=True):
    since: float  # when it came here, by the monotonic clock
    data: bytes


class MemoryStore:
    """The least recently used answers are dropped when their bytes exceed `max_bytes`. The clock is the wall's."""

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.bytes = 0

    @property
    def description(self) -> str:
        """For people: how much it holds."""
        return f"in memory, up to {self._max_bytes / 2**20:.0f} MiB"

    @property
    def amount(self) -> Amount:
        """What it holds."""
        return Amount(entries=len(self._entries), bytes=self.bytes)

    def get(self, key: str) -> Stored | None:
        """The answer under a key, unless it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value = read(entry.data, key, self._clock())
        if value is None:
            self.drop(key)
        else:
            self._entries.move_to_end(key)
        return value

    def here_for(self, key: str) -> float:
        """For how many seconds an answer has been here."""
        return time.monotonic() - self._entries[key].since

    def data(self, key: str) -> bytes | None:
        """The same as it is written, for whoever reads it elsewhere and will find out whether it is too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.data

    def put(self, value: Stored) -> None:
        """Keeps an answer, dropping the least recently used ones to make room."""
        self.put_data(value.key, encode(value))

    def put_data(self, key: str, data: bytes) -> None:
        """Keeps an answer that is written already."""
        if _weight(key, data) > self._max_bytes:
            return
        self.drop(key)
        self._entries[key] = _Entry(time.monotonic(), data)
        self.bytes += _weight(key, data)
        while self.bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: str) -> None:
        """Forgets an answer, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _weight(key, entry.data)

    async def remove(self, selection: Selection) -> Amount:
        """Forgets the answers that are meant."""
        entries = size = 0
        for turn, (key, entry) in enumerate([*self._entries.items()], 1):
            if selection.holds(key) and self._entries.get(key) is entry:
                self.drop(key)
                entries, size = entries + 1, size + len(entry.data)
            if turn % AT_ONCE == 0:
                await asyncio.sleep(0)
        return Amount(entries=entries, bytes=size)


def _weight(key: str, data: bytes) -> int:
    """What an entry costs in bytes, with an estimate for the dictionary's own bookkeeping."""
    return len(key) + len(data) + 350
