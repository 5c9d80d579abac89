"""Counting: exact whatever becomes of what is written, on the right day, bounded, and cheap."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import ANONYMOUS
from gateway.usage import ledger as ledgers
from gateway.usage.counts import NOBODY, Account, Batch, Counts, Query
from gateway.usage.disk import DiskStore
from gateway.usage.ledger import OTHERS, Ledger
from gateway.usage.settings import Price
from gateway.usage.store import Store, Unkept
from gateway.values import Money
from tests.gateway.usage.made import ALL, ANN, BOB, record, total

MIDNIGHT = 1_767_312_000.0  # seconds: the first of 2026-01-02, by UTC


class Troubled:
    """A real store to which things happen: `faults` says of each batch in turn what does."""

    def __init__(self, real: Store) -> None:
        self._real = real
        self.kept = real.kept
        self.faults: list[str] = []

    async def add(self, batch: Batch) -> None:
        """Adds it, unless it gets lost; whoever hears of a fault cannot know."""
        fault = self.faults.pop(0) if self.faults else "none"
        if fault != "lost":
            await self._real.add(batch)
        if fault == "called off":
            raise asyncio.CancelledError
        if fault != "none":
            raise Unkept(fault)

    async def read(self, query: Query) -> Mapping[Account, Counts]:
        """Well."""
        return await self._real.read(query)

    async def tidy(self, before: str) -> None:
        """Well."""
        await self._real.tidy(before)

    async def close(self) -> None:
        """Well."""
        await self._real.close()


class Clock:
    """Seconds since 1970, which go on when told."""

    def __init__(self, now: float = MIDNIGHT) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def troubled(folder: Path) -> AsyncIterator[Troubled]:
    """A file to which things happen."""
    store = Troubled(DiskStore(folder / "usage.sqlite"))
    yield store
    await store.close()


FAULTS = st.sampled_from(["none", "lost", "answer lost", "called off"])
STEPS = st.one_of(
    st.tuples(st.just("count"), st.sampled_from([ANN, BOB, ANONYMOUS]), st.integers(0, 3)),
    st.tuples(st.just("flush"), st.lists(FAULTS, max_size=3)),
    st.tuples(st.just("next day")),
    st.tuples(st.just("restart")),
)


@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=40, deadline=None)
def test_sums_are_exact_whatever_happens(steps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Batches that fail, or of which nobody knows, restarts and midnights in any order: each request counts once."""
    asyncio.run(_lived_through(steps, tmp_path_factory.mktemp("ledger")))


async def _lived_through(steps: list[Any], folder: Path) -> None:
    clock, expected = Clock(), Counter[tuple[str, str]]()
    async with troubled(folder) as store:
        ledger = Ledger(store, {}, clock)
        for step in steps:
            match step:
                case ("count", caller, pictures):
                    ledger.count(record(caller, digests=["d"] * pictures))
                    expected[ledger.today, caller.key_id or NOBODY] += 1 + 1000 * pictures
                case ("flush", faults):
                    store.faults = faults
                    with suppress(Unkept, asyncio.CancelledError):
                        await ledger.flush()
                case ("next day",):
                    clock.now += 86_400
                case _:
                    store.faults = []
                    await ledger.flush()
                    ledger = Ledger(store, {}, clock)
        store.faults = []
        found = await ledger.read(Query(first="2026-01-01", last="2030-01-01", by=("day", "key")))

    sums = {(account.day, account.key): each.requests + 1000 * each.pictures for account, each in found.items()}
    assert sums == expected


async def test_counting_goes_on_while_it_is_written(tmp_path: Path) -> None:
    """Writers and readers at once, called off at any time."""
    dice = random.Random(1)
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {})
        store.faults = [dice.choice(["none", "lost", "answer lost"]) for _ in range(100)]

        async def write() -> None:
            with suppress(Unkept, TimeoutError):
                async with asyncio.timeout(dice.random() / 200):
                    await ledger.flush()

        for _ in range(60):
            ledger.count(record())
            await asyncio.gather(write(), write())
        store.faults = []

        assert total(await ledger.read(ALL)) == Counts(
            requests=60, pictures=60, prompt_tokens=600, completion_tokens=180, picture_tokens=240
        )


async def test_days_are_those_of_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the gateway stands; a request counts when it ends."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # fourteen hours ahead
    time.tzset()
    clock = Clock(MIDNIGHT - 0.001)
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {}, clock)
        ledger.count(record())
        clock.now = MIDNIGHT
        ledger.count(record())
        ledger.count(record())
        clock.now = MIDNIGHT + 86_399.999
        ledger.count(record())
        found = await ledger.read(Query(first="2026-01-01", last="2026-01-02", by=("day",)))
    monkeypatch.undo()
    time.tzset()

    assert {account.day: counts.requests for account, counts in found.items()} == {"2026-01-01": 1, "2026-01-02": 3}


async def test_a_price_holds_for_what_is_used_under_it(tmp_path: Path) -> None:
    """Another price changes no bill of the past."""
    async with troubled(tmp_path) as store:
        for price in (1, 5):
            ledger = Ledger(store, {"demo": Price(pictures=Money(price))})
            ledger.count(record())
            ledger.count(record(model="other"))
            await ledger.flush()

        assert total(await store.read(ALL)).cost == 6


async def test_what_comes_without_a_key_that_holds_is_nobodys(tmp_path: Path) -> None:
    """Chat completions that were posted count, and what was refused of them; nothing else does."""
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {})
        tell = ledger.teller(str, "/v1/chat/completions")
        for fields in (
            {},
            {"status": 429, "error": "rate_limit_exceeded", "model": None},
            {"status": 401, "caller": ANONYMOUS},
            {"method": "GET", "status": 405},
            {"path": "/v1/models"},
        ):
            tell([record(**fields)])
        found = await ledger.read(Query(first="1970-01-01", last="9999-12-31", by=("key", "model")))

    assert {(key, model): (each.requests, each.failed) for (_, key, _, model), each in found.items()} == {
        ("ann", "demo"): (1, 0),
        ("ann", NOBODY): (0, 1),
    }


async def test_many_are_counted_at_once_or_none_of_them(tmp_path: Path) -> None:
    """One that cannot be counted is met before any of the others has been: they can be told again."""
    ann, bob = record(ANN), record(BOB, status=503, error="x")
    broken: Any = record(BOB, usage="none")
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {})
        with pytest.raises(AttributeError):
            ledger.count(ann, bob, broken)
        ledger.count(ann, bob, ann, record(ANN, model="other"))
        found = await ledger.read(Query(first="1970-01-01", last="9999-12-31", by=("key", "model")))

    assert {(key, model): (each.requests, each.failed) for (_, key, _, model), each in found.items()} == {
        ("ann", "demo"): (2, 0),
        ("ann", "other"): (1, 0),
        ("bob", "demo"): (0, 1),
    }


async def test_it_is_bounded_while_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many accounts the sums stay exact; whose they are does not."""
    monkeypatch.setattr(ledgers, "MOST_ACCOUNTS", 3)
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {})
        for number in range(10):
            ledger.count(record(model=f"m{number}"))
        found = await ledger.read(Query(first="1970-01-01", last="9999-12-31", by=("model",)))

    assert {account.model: counts.requests for account, counts in found.items()} == {
        "m0": 1, "m1": 1, "m2": 1, OTHERS: 7,
    }  # fmt: skip


async def test_large_batches_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that none holds up whoever else wants to write."""
    monkeypatch.setattr(ledgers, "MOST_IN_BATCH", 4)
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {})
        for number in range(10):
            ledger.count(record(model=f"m{number}"))
        store.faults = ["none", "answer lost"]
        with pytest.raises(Unkept):
            await ledger.flush()

        assert total(await store.read(ALL)).requests == 8
        assert total(await ledger.read(ALL)).requests == 10


class Busy(Troubled):
    """A store that is written to while requests go on ending."""

    def __init__(self, real: Store) -> None:
        super().__init__(real)
        self.meanwhile: Callable[[], None] = lambda: None
        self.batches = 0

    async def add(self, batch: Batch) -> None:
        """Adds it; others end meanwhile."""
        self.batches += 1
        self.meanwhile()
        await super().add(batch)


async def test_writing_ends_though_requests_do_not(tmp_path: Path) -> None:
    """What is counted while it is written waits for the next time; under load writing would know no pause."""
    async with troubled(tmp_path) as real:
        store = Busy(real)
        ledger = Ledger(store, {})
        store.meanwhile = lambda: ledger.count(record())
        ledger.count(record())
        async with asyncio.timeout(10):
            await ledger.flush()
            await ledger.flush()

        assert store.batches == 2
        assert total(await real.read(ALL)).requests == 2


async def test_who_ends_during_the_last_write_is_written_too(tmp_path: Path) -> None:
    """A gateway that ends breaks requests off, and these are over a moment later than the last of the others."""
    async with troubled(tmp_path) as real:
        store = Busy(real)
        async with Ledger(store, {}) as ledger:
            ledger.count(record())
            store.meanwhile = lambda: ledger.count(record()) if store.batches == 1 else None

        assert total(await real.read(ALL)).requests == 2


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written every few milliseconds."""
    monkeypatch.setattr(ledgers, "WRITE_EVERY", 0.005)
    monkeypatch.setattr(ledgers, "TRY_EVERY", 0.005)
    monkeypatch.setattr(ledgers, "LAST", 0.2)


@pytest.mark.usefixtures("often")
async def test_it_is_written_by_itself_and_at_the_end(tmp_path: Path) -> None:
    """Without anybody asking for it, and what is left when the gateway ends."""
    async with Ledger(DiskStore(tmp_path / "u"), {}) as ledger:
        ledger.count(record())
        reader = DiskStore(tmp_path / "u")
        await until(lambda: reader.read(ALL))
        ledger.count(record())
    found = await reader.read(ALL)
    await reader.close()

    assert total(found).requests == 2


async def until(found: Callable[[], Any]) -> None:
    """Returns when there is something."""
    async with asyncio.timeout(20):
        while not await found():
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("often")
async def test_an_outage_is_told_once_and_so_is_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However long it is, and nothing is lost in it."""
    caplog.set_level(logging.INFO, "gateway.usage")
    async with troubled(tmp_path) as store, Ledger(store, {}) as ledger:
        store.faults = ["lost", "answer lost", "lost", "lost", "answer lost"]
        ledger.count(record())
        await until(lambda: _written_again(caplog))

        assert total(await ledger.read(ALL)).requests == 1
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]


async def _written_again(caplog: pytest.LogCaptureFixture) -> bool:
    return "written again" in caplog.text


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(("outage", "lost"), [(3, 0), (10_000, 2)])
async def test_what_is_lost_at_the_end_is_told(
    tmp_path: Path, outage: int, lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway that ends waits for a while for its store to come back, and says how much it could not write."""
    async with troubled(tmp_path) as store:
        async with Ledger(store, {}) as ledger:
            ledger.count(record())
            ledger.count(record(status=503, error="x"))
            store.faults = ["lost"] * outage
        assert total(await store.read(ALL)).requests == (0 if lost else 1)

    assert (f"The usage of {lost} requests" in caplog.text) is bool(lost)


@pytest.mark.usefixtures("often")
async def test_old_days_are_forgotten_by_itself(tmp_path: Path) -> None:
    """After four hundred days, at the start and at midnight."""
    clock = Clock()
    async with troubled(tmp_path) as store:
        ledger = Ledger(store, {}, clock)
        ledger.count(record())
        await ledger.flush()
        clock.now += 399 * 86_400
        async with Ledger(store, {}, clock) as later:
            later.count(record())
            await until(lambda: _has(store, 2))
            clock.now += 86_400
            await until(lambda: _has(store, 1))


async def _has(store: Store, requests: int) -> bool:
    return total(await store.read(ALL)).requests == requests
