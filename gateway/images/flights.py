"""Doing the same thing only once: for all who ask at the same time, and for a while after it has failed."""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

SHORTEST_MEMORY = 30.0  # seconds
LONGEST_MEMORY = 60.0
MAX_REMEMBERED = 1024  # failures

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self, task: "asyncio.Task[T]") -> None:
        self.task = task
        self.passengers = 0


class Flights(Generic[T]):
    """Work under way, by key. Whoever asks for the same joins in; it is given up when the last of them has left."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def join(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work under that key returns or raises; `work` starts it where it is not under way."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.passengers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.passengers -= 1
            if flight.passengers == 0:
                # Out of sight at once: a newcomer must not board what is being cancelled.
                del self._flights[key]
                flight.task.cancel()


class Failures:
    """What failed a short while ago, by key, and need not be tried again so soon.

    Each is remembered for a time of its own, so that what failed together is not tried again together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return self._until.get(key, 0.0) > self._clock()

    def remember(self, key: str) -> None:
        """Notes a failure; the oldest makes room for it."""
        span = random.uniform(SHORTEST_MEMORY, LONGEST_MEMORY)  # noqa: S311 - no secret hangs on it
        self._until[key] = self._clock() + span
        self._until.move_to_end(key)
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)
