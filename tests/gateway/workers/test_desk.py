"""What the owner is to its workers beside engines: limits, leases, kept answers, the way from each to all."""

import asyncio
import time
from pathlib import Path

import pytest

from gateway.auth import Caller
from gateway.cache import Selection
from gateway.cache.memory import MemoryStore
from gateway.quota import Wanted
from gateway.workers.cache import WorkerCache
from gateway.workers.messages import HEAD, Answer, Call, Lease, Leave, framed
from gateway.workers.stores import OwnerBooks, OwnerLeases, OwnerStore
from tests.gateway.cache.answers import USAGE, choices, named, stored
from tests.gateway.workers.pairs import Office, house

CHOICES = choices("a cat")
KEY = named("0" * 64)
CALLER = Caller(key_id="k", team="t", requests_per_minute=2, concurrent=1)


@pytest.fixture
def work(tmp_path: Path) -> Office:
    """A house without engines."""
    return Office(house(tmp_path))


async def test_a_key_has_one_book_for_all_workers(work: Office) -> None:
    """Requests a minute are counted together; places too, and those of a worker that ends are free."""
    async with work.hired() as here:
        async with work.hired() as there:
            books = [OwnerBooks(here), OwnerBooks(there)]
            first = await books[1].take(CALLER, Wanted(requests=1, place="a"))
            refused = await books[0].take(CALLER, Wanted(requests=1, place="b"))
        second = await books[0].take(CALLER, Wanted(requests=1, place="b"))
        await books[0].give_back(CALLER, Wanted(requests=1, place="b"))
        third = await books[0].take(CALLER, Wanted(requests=1, place="c"))

    assert [each.refused for each in (first, refused, second, third)] == [None, "concurrent", None, None]
    assert [each.requests and each.requests.remaining for each in (first, second, third)] == [1, 0, 0]


async def test_one_worker_at_a_time_has_a_lease(work: Office) -> None:
    """The next has it when the first gives it back, or ends; other names are other leases."""
    async with work.hired() as here:
        async with work.hired() as there, OwnerLeases(there).held("x"), OwnerLeases(here).held("y"):
            async with asyncio.timeout(20):
                for lender in (there, here):  # given back, and had again by another
                    await _held(OwnerLeases(lender), "given back")
            waiting = asyncio.create_task(_held(OwnerLeases(here), "x"))
            async with OwnerLeases(there).held("z"):  # by when the owner has heard of the one who waits
                assert not waiting.done()
        async with asyncio.timeout(20):
            await waiting

    assert not work.house.leases._lines


async def _held(leases: OwnerLeases, name: str) -> None:
    async with leases.held(name):
        pass


async def test_an_answer_that_one_keeps_is_found_by_all_until_it_is_removed(work: Office) -> None:
    """Copies in the workers' own memory go as well, at once, and the report adds up what all of them have seen."""
    async with work.hired() as here, work.hired() as there:
        caches = [
            WorkerCache(each, MemoryStore(max_bytes=2**20), OwnerStore(each, max_bytes=2**20), ttl=60)
            for each in (here, there)
        ]
        caches[0].keep(KEY, CHOICES, USAGE, seconds=1.5)
        found = [await cache.get(KEY) for cache in caches]
        for cache in caches:
            cache.tally.hit(USAGE, 1.5)
        report = await caches[1].report()
        removed = await caches[1].remove(Selection())

        assert all(each is not None and each.choices == CHOICES for each in found)
        assert (report.hits, report.saved_seconds, report.memory.entries, report.redis) == (2, 3.0, 1, None)
        assert (removed.memory.entries, removed.memory.complete) == (1, True)
        assert [await cache.get(KEY) for cache in caches] == [None, None]
        assert [cache.in_memory.entries for cache in caches] == [0, 0]


async def test_an_answer_of_hours_ago_is_found(work: Office) -> None:
    """As long as it lives, whichever worker looks for it."""
    async with work.hired() as here:
        store, now = OwnerStore(here, max_bytes=2**20), time.time()
        store.put(stored(KEY, made=now - 7200, expires=now + 60), removed=lambda: None)
        found = await WorkerCache(here, MemoryStore(max_bytes=2**20), store, ttl=60).get(KEY)

    assert found is not None
    assert found.choices == CHOICES


async def test_an_answer_too_old_is_none(work: Office) -> None:
    """The owner does not look into what it keeps: whoever reads it does."""
    async with work.hired() as here:
        cache = WorkerCache(here, MemoryStore(max_bytes=2**20), OwnerStore(here, max_bytes=2**20), ttl=0.001)
        cache.keep(KEY, CHOICES, USAGE, seconds=1)
        expired = time.time() + 0.002
        while time.time() < expired:
            await asyncio.sleep(0.001)

        assert await cache.get(KEY) is None


async def test_an_answer_that_comes_as_its_asker_gives_up_is_let_go(work: Office) -> None:
    """It does no harm to the worker that was only late."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer(_: bytes) -> bytes:
        asked.set()
        await answered.wait()
        return b""

    async with work.hired() as worker:
        worker.answers["q"] = answer
        (desk,) = work.desks
        asking = asyncio.create_task(desk.ask("q", b""))
        await asked.wait()
        asking.cancel()
        desk.heard(framed(Answer(0, b""))[HEAD:])
        answered.set()
        await asyncio.gather(asking, return_exceptions=True)

        assert asking.cancelled()


async def test_nothing_is_left_of_a_call_whose_asker_leaves_at_once(work: Office) -> None:
    """Before the owner has begun to answer it, as when both come in one piece."""
    async with work.hired() as worker:
        (desk,) = work.desks
        for number in range(100, 200):
            desk.heard(framed(Call(number, Lease("x")))[HEAD:])
            desk.heard(framed(Leave(number))[HEAD:])
        async with asyncio.timeout(20):
            await _held(OwnerLeases(worker), "x")
            while desk._calls:
                await asyncio.sleep(0)


async def test_a_question_reaches_every_worker(work: Office) -> None:
    """Who has no answer, or fails over it, is counted as missing; the asker is one of those asked."""

    async def answer(about: bytes) -> bytes:
        return b"answer to " + about

    async def failing(_: bytes) -> bytes:
        raise ValueError

    async with work.hired() as one, work.hired() as two, work.hired() as three:
        one.answers["q"] = two.answers["q"] = answer
        three.answers["q"] = failing
        told = await one.gather("q", b"this")
        nothing = await two.gather("unknown")

    assert (told.answers, told.missing) == ((b"answer to this",) * 2, 1)
    assert (nothing.answers, nothing.missing) == ((), 3)
