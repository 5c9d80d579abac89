"""Sharing work, remembering failures."""

import asyncio

import pytest

from gateway.images import flights
from gateway.images.flights import Failures, Flights


class Work:
    """Something that is done when it is told to; counts how often it was begun and given up."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.begun = self.given_up = 0

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return self.begun


async def joined(table: Flights[int], work: Work, count: int, key: str = "a") -> list["asyncio.Task[int]"]:
    """That many who wait for the work."""
    tasks = [asyncio.create_task(table.join(key, work)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_work_is_done_once_for_all() -> None:
    """Whoever comes while it is under way shares it; who comes later does not; another key is other work."""
    table, work = Flights[int](), Work()
    tasks = await joined(table, work, 3)
    others = await joined(table, work, 1, key="b")
    work.done.set()
    assert await asyncio.gather(*tasks) == [2, 2, 2]
    assert await asyncio.gather(*others) == [2]
    assert await table.join("a", work) == 3


async def test_work_goes_on_until_the_last_has_left() -> None:
    """Also without the one for whom it was begun."""
    table, work = Flights[int](), Work()
    tasks = await joined(table, work, 3)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.sleep(0)
    assert work.given_up == 0
    tasks[2].cancel()
    await asyncio.wait(tasks)
    newcomers = await joined(table, work, 1)  # in the same moment, and not into what is being given up
    work.done.set()
    assert await asyncio.gather(*newcomers) == [2]
    assert (work.begun, work.given_up) == (2, 1)


async def test_what_work_raises_reaches_all() -> None:
    """And it is begun anew for the next."""

    async def fail() -> int:
        raise ValueError("no")

    table = Flights[int]()
    results = await asyncio.gather(*(table.join("a", fail) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3


def test_failures_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute at the least and a minute at the most, each for a time of its own; the oldest make room."""
    now = 100.0
    failures = Failures(lambda: now)
    keys = [str(number) for number in range(flights.MAX_REMEMBERED + 1)]
    for key in keys:
        failures.remember(key)
    assert keys[0] not in failures
    assert all(key in failures for key in keys[1:])
    now = 100.0 + flights.SHORTEST_MEMORY - 0.1
    assert all(key in failures for key in keys[1:])
    now = 100.0 + (flights.SHORTEST_MEMORY + flights.LONGEST_MEMORY) / 2
    assert 0 < sum(key in failures for key in keys) < len(keys) - 1
    now = 100.0 + flights.LONGEST_MEMORY + 0.1
    assert not any(key in failures for key in keys)
