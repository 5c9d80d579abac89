"""One of all gateways makes an answer: a lease that ends by itself, whatever becomes of its holder."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from gateway.redis import Link, RedisLeases, lease, link
from tests.services import Redis, running_redis


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for a Redis that is well on a machine that is busy."""
    monkeypatch.setattr(lease, "PATIENCE", 5.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """A real redis-server of its own."""
    with running_redis(tmp_path) as redis_server:
        yield redis_server


@pytest.fixture
async def links(server: Redis) -> AsyncIterator[list[Link]]:
    """Three gateways' ways to it."""
    async with Link(server.url) as one, Link(server.url) as other, Link(server.url) as third:
        yield [one, other, third]


async def test_one_holds_it_at_a_time(links: list[Link]) -> None:
    """Thirty who want it have it one after another, and whoever has it sees what the one before it wrote."""
    holders, most, seen = 0, 0, list[int]()

    async def work(number: int) -> None:
        nonlocal holders, most
        to = links[number % 3]
        async with RedisLeases(to).held("k"):
            holders += 1
            most = max(most, holders)
            seen.append(int(await to.ask(lambda client: client.get("count")) or 0))
            to.tell(lambda client: client.incr("count"))
            holders -= 1

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, range(30)))

    assert most == 1
    assert seen == list(range(30))


async def test_a_holder_that_is_killed_costs_the_lease(links: list[Link], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives it back, and it ends by itself."""
    monkeypatch.setattr(lease, "LASTS", 0.5)
    monkeypatch.setattr(lease, "RENEW_EVERY", 1_000.0)
    async with RedisLeases(links[0]).held("k"):
        started = time.monotonic()
        async with asyncio.timeout(20), RedisLeases(links[1]).held("k"):
            took = time.monotonic() - started

    assert took > 0.3


async def test_a_lease_is_renewed_for_as_long_as_it_takes(
    server: Redis, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that takes several times as long as a lease lasts keeps it."""
    monkeypatch.setattr(lease, "LASTS", 2.0)
    monkeypatch.setattr(lease, "RENEW_EVERY", 0.05)
    async with RedisLeases(links[0]).held("k"):
        with redis.Redis(unix_socket_path=str(server.path)) as client:
            client.pexpire(f"{lease.PREFIX}k", 1_000)
            async with asyncio.timeout(20):
                while client.pttl(f"{lease.PREFIX}k") <= 1_000:
                    await asyncio.sleep(0.01)


async def test_one_that_was_lost_is_neither_renewed_nor_given_back(
    server: Redis, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another's by then."""
    monkeypatch.setattr(lease, "RENEW_EVERY", 0.01)
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        async with RedisLeases(links[0]).held("k"):
            client.set(f"{lease.PREFIX}k", "another's", px=3_000)
            async with asyncio.timeout(20):
                while client.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"] < 3:
                    await asyncio.sleep(0.01)
        await links[0].told()

        assert client.get(f"{lease.PREFIX}k") == b"another's"
        assert client.pttl(f"{lease.PREFIX}k") <= 3_000


async def test_no_wait_is_endless(links: list[Link], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has waited long enough goes on without it."""
    monkeypatch.setattr(lease, "LONGEST", 0.2)
    async with RedisLeases(links[0]).held("k"), asyncio.timeout(20), RedisLeases(links[1]).held("k"):
        pass


@pytest.mark.parametrize("trouble", [signal.SIGKILL, signal.SIGSTOP])
async def test_without_redis_everyone_goes_on_at_once(
    server: Redis, links: list[Link], monkeypatch: pytest.MonkeyPatch, trouble: signal.Signals
) -> None:
    """Also those who wait for one: an answer is made twice, and nobody waits for what is gone."""
    monkeypatch.setattr(lease, "PATIENCE", link.PATIENCE)
    async with RedisLeases(links[0]).held("k"):
        waiting = asyncio.ensure_future(_once(links[1]))
        await asyncio.sleep(0)
        server.signal(trouble)

        async with asyncio.timeout(5):
            await asyncio.gather(waiting, _once(links[2]))


async def _once(to: Link) -> None:
    async with RedisLeases(to).held("k"):
        pass


async def test_who_leaves_while_asking_leaves_no_lease_behind(server: Redis, links: list[Link]) -> None:
    """It may have got it and not have heard of it."""
    for steps in range(40):
        task = asyncio.ensure_future(_once(links[0]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await links[0].told()

    with redis.Redis(unix_socket_path=str(server.path)) as client:
        assert client.keys() == []
