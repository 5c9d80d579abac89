"""Usage in Redis: each request counts once, whatever becomes of Redis or of the way to it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis

from gateway.redis import Link, link
from gateway.usage import shared
from gateway.usage.counts import Account, Batch, Counts, Query
from gateway.usage.ledger import Ledger
from gateway.usage.shared import PREFIX, SharedStore
from gateway.usage.store import TooMuch, Unkept
from tests.gateway.redis.faults import Way
from tests.gateway.redis.servers import cluster
from tests.gateway.usage.made import BOB, record, total
from tests.services import Redis, running_redis

DAY = "2026-01-02"
THE_DAY = Query(first=DAY, last=DAY)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """A real redis-server of its own."""
    with running_redis(tmp_path) as redis_server:
        yield redis_server


@pytest.fixture
async def way(server: Redis) -> AsyncIterator[Way]:
    """A way to it that can be troubled."""
    async with Way(server.path).open() as opened:
        yield opened


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for a Redis that is well on a machine that is busy."""
    monkeypatch.setattr(link, "PATIENCE", 10.0)
    monkeypatch.setattr(shared, "PATIENCE", 10.0)


def clock() -> float:
    """Noon of the day."""
    return 1_767_312_000.0 + 43_200


def batch(number: int, requests: int, *, day: str = DAY, writer: str = "w") -> Batch:
    """So many requests of Ann's."""
    counts = {Account(day, "ann", "a", "org/name:1@x"): Counts(requests=requests, cost=5)}
    return Batch(writer=writer, number=number, day=day, counts=counts)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_batch_is_added_once(server: Redis) -> None:
    """However often it is sent; each writer and each day has numbers of its own."""
    async with Link(server.url) as to:
        kept = SharedStore(to)
        for each in (batch(1, 1), batch(1, 1), batch(2, 10), batch(1, 1), batch(2, 10), batch(1, 100, writer="x")):
            await kept.add(each)
        await kept.add(batch(3, 1000, day="2026-01-03"))

        assert await kept.read(Query(first=DAY, last="2026-01-05")) == {
            Account(DAY, "ann", "a", "org/name:1@x"): Counts(requests=111, cost=15),
            Account("2026-01-03", "ann", "a", "org/name:1@x"): Counts(requests=1000, cost=5),
        }
        assert await kept.read(Query(first=DAY, last=DAY, team="b")) == {}
        assert await kept.read(Query(first=DAY, last="2026-01-03", key="ann", by=("team",))) == {
            Account("", "", "a", ""): Counts(requests=1111, cost=20)
        }


async def test_an_answer_that_is_lost_doubles_nothing(way: Way) -> None:
    """The batch arrived, and nobody heard of it."""
    async with Link(way.url) as to:
        ledger = Ledger(SharedStore(to), {}, clock)
        for _ in range(2):
            ledger.count(record())
            way.resets = True
            with pytest.raises(Unkept):
                await ledger.flush()
            ledger.count(record())
            await until(lambda: not to.is_down)

            await ledger.flush()

        assert total(await ledger.read(THE_DAY)).requests == 4


@pytest.mark.parametrize("trouble", ["stopped", "hole"])
async def test_what_is_used_while_redis_is_away_is_added_later(
    server: Redis, way: Way, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """All of it, and once; while it is away nobody is told half of the truth."""
    async with Link(way.url) as to:
        monkeypatch.setattr(link, "PATIENCE", 0.2)
        monkeypatch.setattr(shared, "PATIENCE", 0.2)
        ledger = Ledger(SharedStore(to), {}, clock)
        ledger.count(record())
        await until(lambda: not to.is_down)
        await ledger.flush()
        ledger.count(record())
        if trouble == "stopped":
            server.signal(signal.SIGSTOP)
        way.hole = trouble == "hole"
        for _ in range(5):
            ledger.count(record(BOB))
            with pytest.raises(Unkept):
                await ledger.read(THE_DAY)
        server.signal(signal.SIGCONT)
        way.hole = False
        await until(lambda: not to.is_down)

        found = await ledger.read(Query(first=DAY, last=DAY, by=("key",)))

    assert {account.key: counts.requests for account, counts in found.items()} == {"ann": 2, "bob": 5}


async def test_gateways_add_to_the_same_sums(server: Redis) -> None:
    """At the same time, each in its own batches."""
    async with Link(server.url) as one, Link(server.url) as two:
        ledgers = [Ledger(SharedStore(to), {}, clock) for to in (one, two, one)]

        async def use(ledger: Ledger) -> None:
            for _ in range(30):
                ledger.count(record())
                await ledger.flush()

        await asyncio.gather(*map(use, ledgers))

        for ledger in ledgers:
            assert total(await ledger.read(THE_DAY)).requests == 90


async def test_it_works_on_a_cluster(tmp_path: Path) -> None:
    """A batch touches one key."""
    with cluster(tmp_path) as port:
        async with Link(f"redis+cluster://127.0.0.1:{port}") as to:
            kept = SharedStore(to)
            for each in (batch(1, 1), batch(1, 1), batch(2, 2, day="2026-01-03")):
                await kept.add(each)
            await kept.tidy("2026-01-03")

            assert total(await kept.read(Query(first=DAY, last="2026-01-03"))).requests == 2


async def test_days_that_are_too_old_are_forgotten(server: Redis) -> None:
    """They have no time to live, which would let Redis remove them before the cache's answers."""
    async with Link(server.url) as to:
        kept = SharedStore(to)
        for number, day in enumerate(("2025-12-01", "2026-01-01", DAY), 1):
            await kept.add(batch(number, 1, day=day))
        with redis.Redis(unix_socket_path=str(server.path)) as client:
            assert client.ttl(PREFIX + DAY) == -1

            await kept.tidy(DAY)

            assert client.keys() == [f"{PREFIX}{DAY}".encode()]


@pytest.mark.parametrize(("policy", "told"), [("allkeys-lru", True), ("volatile-lru", False), ("noeviction", False)])
async def test_a_redis_that_would_remove_counts_is_told(
    server: Redis, caplog: pytest.LogCaptureFixture, policy: str, told: bool
) -> None:
    """With the remedy."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.config_set("maxmemory-policy", policy)
    async with Link(server.url) as to:
        await SharedStore(to).tidy(DAY)

    assert ("volatile-lru" in caplog.text) is told


async def test_what_is_not_ours_is_left_alone(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that somebody else put there are skipped; a key of another kind is an error, and nothing is lost."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.hset(PREFIX + DAY, mapping={"a|b|c|profits": 7, "x": 1, "a|b|requests": 2})
        client.set(f"{PREFIX}2026-01-03", "a word")
    async with Link(server.url) as to:
        kept = SharedStore(to)
        await kept.add(batch(1, 3))

        assert total(await kept.read(THE_DAY)).requests == 3
        with pytest.raises(Unkept):
            await kept.add(batch(2, 3, day="2026-01-03"))
        monkeypatch.setattr(shared, "MAX_ROWS", 0)
        with pytest.raises(TooMuch):
            await kept.read(THE_DAY)
