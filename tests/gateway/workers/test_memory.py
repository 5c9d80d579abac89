"""The memory for pictures that all workers have together."""

import asyncio
from pathlib import Path

import pytest

from gateway import config
from gateway.workers.memory import LARGE, LentBudget
from tests.gateway.workers.pairs import Office, house

OWN = 400
LENT = config.load(None, {}, {}).images.max_decoded  # of a house with one worker, which has its own part besides


@pytest.fixture
def work(tmp_path: Path) -> Office:
    """A house without engines."""
    return Office(house(tmp_path))


async def test_large_pictures_of_all_workers_share_what_the_owner_has(work: Office) -> None:
    """First come, first served, over all of them; what a worker had that ends is free, and so is what is given back."""
    pot = work.house.memory["decoding"]
    async with work.hired() as here:
        one = LentBudget(OWN, pot.size, here, "decoding")
        async with work.hired() as there:
            other = LentBudget(OWN, pot.size, there, "decoding")
            taken = await other.take(pot.size - 10)
            waiting = asyncio.create_task(one.take(pot.size // 2))
            small = await other.take(OWN // LARGE)
            assert (taken, small, other.free, pot.free) == (pot.size - 10, OWN // LARGE, OWN - OWN // LARGE, 10)
            await here.gather("nothing")  # by when the owner has heard of the one who waits
            assert not waiting.done()
        async with asyncio.timeout(20):
            assert await waiting == pot.size // 2
        one.give_back(pot.size // 2)
        async with asyncio.timeout(20):
            assert await one.take(2 * LENT) == pot.size  # all there is, when it is more


async def test_who_gives_up_waiting_leaves_nothing_taken(work: Office) -> None:
    """A request that is over takes its place in line with it."""
    pot = work.house.memory["decoded"]
    async with work.hired() as here:
        budget = LentBudget(OWN, pot.size, here, "decoded")
        await budget.take(pot.size)
        waiting = asyncio.create_task(budget.take(pot.size))
        await here.gather("nothing")  # by when the owner has heard of the one who waits
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        budget.give_back(pot.size)
        async with asyncio.timeout(20):
            assert await budget.take(pot.size) == pot.size


async def test_what_is_given_back_while_another_waits_for_as_much_is_not_lost(work: Office) -> None:
    """Pictures of one size follow each other all day; the owner has all of its memory in the end."""
    pot = work.house.memory["decoding"]
    async with work.hired() as here:
        budget = LentBudget(OWN, pot.size, here, "decoding")
        await budget.take(pot.size)
        waiting = asyncio.create_task(budget.take(pot.size))
        await here.gather("nothing")  # by when the owner has heard of the one who waits
        budget.give_back(pot.size)
        async with asyncio.timeout(20):
            budget.give_back(await waiting)
            await here.gather("nothing")  # by when the owner has heard of that, too
        assert (pot.free, budget.free) == (pot.size, OWN)
