"""Memory for decoding: promised in turn, never more than promised, and all of it comes back."""

import asyncio
import errno
import gc
import os

import pytest

from gateway.errors import Overloaded
from gateway.images import pool
from gateway.images.budget import Budget
from gateway.images.pool import NotDecoded, Pool
from gateway.images.shared import Memory

from . import made
from .pools import MEMORY, SMALL, decoded, descriptors, pids, settled, until, wanted


async def test_memory_is_given_out_in_order() -> None:
    """What does not fit waits, in line; who leaves the line holds nobody up, and everything comes back."""
    budget = Budget(10)
    order: list[str] = []

    async def take(name: str, size: int, held: asyncio.Event) -> None:
        async with budget.reserved(size):
            order.append(name)
            await held.wait()

    events = {name: asyncio.Event() for name in "abcd"}
    a, b, c, d = (
        asyncio.create_task(take(name, size, events[name])) for name, size in (("a", 6), ("b", 6), ("c", 1), ("d", 99))
    )
    for _ in range(3):
        await asyncio.sleep(0)
    assert (order, budget.free) == (["a"], 4)
    b.cancel()
    await asyncio.gather(b, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (order, budget.free) == (["a", "c"], 3)
    for event in events.values():
        event.set()
    await asyncio.gather(a, c, d)
    assert (order, budget.free) == (["a", "c", "d"], 10)


async def test_who_is_served_and_leaves_in_the_same_moment_gives_back() -> None:
    """Otherwise that memory would be lost for ever."""
    budget = Budget(10)
    first = budget.reserved(10)
    await first.__aenter__()

    async def wait() -> None:
        async with budget.reserved(10):
            pass

    second = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert budget.free == 10


async def test_many_who_leave_in_the_same_moment_hold_nobody_up() -> None:
    """Each finds the others gone already, and whoever is left is served."""
    budget = Budget(10)
    first = budget.reserved(10)
    await first.__aenter__()

    async def wait() -> str:
        async with budget.reserved(10):
            return "served"

    waiting = [asyncio.create_task(wait()) for _ in range(4)]
    await asyncio.sleep(0)
    for each in waiting[:3]:
        each.cancel()
    await first.__aexit__(None, None, None)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3 + [str]
    assert budget.free == 10


async def test_what_waits_too_long_for_memory_is_told_to_come_back(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with a time, when the memory is not there in time; and it can be had afterwards."""
    monkeypatch.setattr(pool, "LONGEST_WAIT", 0.1)
    async with two.budget.reserved(MEMORY):
        with pytest.raises(Overloaded) as caught:
            await decoded(two)
    assert caught.value.retry_after
    monkeypatch.undo()
    await decoded(two)


async def test_a_picture_gets_no_more_memory_than_it_was_promised(two: Pool) -> None:
    """A decoder that wants more, as for a file that lies about its size, fails; the worker lives on."""
    await decoded(two)
    before = pids(two)
    bomb = made.bomb(13_000)
    with pytest.raises(NotDecoded) as caught:
        await two.decode(wanted(bomb, memory=1, side=64), bomb, "", Memory)
    assert caught.value.reason == "memory"
    assert pids(two) >= before


async def test_no_memory_for_sharing_is_told(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has none left, the client is told to come back, and the worker goes on."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Overloaded):
        await decoded(two)
    monkeypatch.undo()
    await decoded(two)


async def good_bad_and_given_up(running: Pool) -> None:
    """Twenty-five pictures at once: good ones, bad ones and such that their client does not wait for."""
    pictures = [SMALL] * 20 + [SMALL[:-200]] * 5
    work = [asyncio.create_task(running.decode(wanted(SMALL), data, "", Memory)) for data in pictures]
    for each in work[::9]:
        each.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def test_a_thousand_pictures_leave_no_descriptor_behind(two: Pool) -> None:
    """However they end."""
    await decoded(two)
    await settled(two)
    gc.collect()
    before = descriptors()
    for _ in range(40):
        await good_bad_and_given_up(two)
    await until(lambda: not two._tasks)
    await settled(two)
    gc.collect()
    await until(lambda: descriptors() <= before + 3)  # one more worker may have come: its socket, how its end is seen
    assert two.budget.free == MEMORY
