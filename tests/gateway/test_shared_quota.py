"""What keys have used of their limits, in a real Redis that several gateways share."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from gateway import shared_quota
from gateway.auth import Caller
from gateway.bucket import Bucket
from gateway.errors import LimitReached
from gateway.quota import Wanted
from gateway.redis import Link
from gateway.redis import link as link_module
from gateway.shared_quota import SharedBooks
from tests.gateway.redis.faults import Way
from tests.gateway.test_quota import begun
from tests.services import Redis, running_redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A redis-server of its own."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
async def link(redis: Redis) -> AsyncIterator[Link]:
    """The way to it."""
    async with Link(redis.url) as made:
        yield made


@pytest.fixture
async def two(redis: Redis, link: Link) -> AsyncIterator[tuple[SharedBooks, SharedBooks]]:
    """The books of two gateways, of which the first uses `link`."""
    async with Link(redis.url) as other, SharedBooks(link) as one_books, SharedBooks(other) as other_books:
        yield one_books, other_books


def caller(**limits: Any) -> Caller:
    """A key with those limits."""
    return Caller(key_id="ci", team="web", **limits)


async def passed(books: SharedBooks, who: Caller, **wanted: Any) -> bool:
    """Whether that could be taken."""
    return (await books.take(who, Wanted(**wanted))).refused is None


async def test_two_gateways_keep_to_one_limit(two: tuple[SharedBooks, SharedBooks]) -> None:
    """A hundred at once, in turns at either: as many pass as the limit says, and both tell the same."""
    who = caller(requests_per_minute=30, pictures_per_minute=7)

    requests = await asyncio.gather(*(passed(two[number % 2], who, requests=1) for number in range(100)))
    pictures = await asyncio.gather(*(passed(two[number % 2], who, pictures=2) for number in range(10)))
    told = [await books.take(who, Wanted()) for books in two]

    assert 30 <= sum(requests) <= 31  # one comes back within two seconds
    assert sum(pictures) == 3
    assert [each.pictures.remaining if each.pictures else None for each in told] == [1, 1]


async def test_a_flood_at_two_gateways_passes_no_limit(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand at once, with a Redis some way off: none is decided by a gateway alone for want of its answer."""
    monkeypatch.setattr(link_module, "PATIENCE", 1.0)
    who = caller(requests_per_minute=600)
    async with Way(redis.path).open() as way, Link(way.url) as one, Link(way.url) as other:
        way.delay = 0.02
        started = time.monotonic()
        async with SharedBooks(one) as one_books, SharedBooks(other) as other_books:
            flood = [passed(books, who, requests=1) for books in (one_books, other_books) for _ in range(1_500)]
            through = sum(await asyncio.gather(*flood))
        took = time.monotonic() - started

    assert not one.is_down
    assert not other.is_down
    assert 600 <= through <= 600 + 10 * took + 1  # ten come back each second


async def test_what_redis_does_not_hear_of_is_charged_here(
    redis: Redis, link: Link, two: tuple[SharedBooks, SharedBooks]
) -> None:
    """What a gateway took by itself while Redis was away stays taken when Redis, which has not heard of it, is back."""
    who = caller(requests_per_minute=10)
    redis.kill()
    alone = [await passed(two[0], who, requests=1) for _ in range(11)]
    redis.start()
    async with asyncio.timeout(20):
        while link.is_down:
            await asyncio.sleep(0.05)

    again = [await passed(two[0], who, requests=1) for _ in range(10)]

    assert sum(alone) in (10, 11)
    assert sum(again) <= 1


async def test_what_is_given_back_is_given_back_to_all(two: tuple[SharedBooks, SharedBooks]) -> None:
    """Requests, pictures and places; and no more of them than there were."""
    who = caller(requests_per_minute=2, pictures_per_minute=4, concurrent=1)
    wanted = Wanted(requests=2, pictures=4, place="x")
    assert (await two[0].take(who, wanted)).refused is None
    assert (await two[1].take(who, Wanted(requests=1))).refused == "requests"

    for _ in range(2):
        await two[0].give_back(who, wanted)

    left = await two[1].take(who, Wanted())
    assert (left.requests, left.pictures) == (Bucket(2), Bucket(4))
    assert (await two[0].take(who, wanted)).refused is None


async def test_places_are_shared_and_given_back(two: tuple[SharedBooks, SharedBooks]) -> None:
    """One under way at either gateway is one under way."""
    who = caller(concurrent=1)

    async with begun(two[0], who):
        with pytest.raises(LimitReached):
            async with begun(two[1], who):
                pass

    assert await passed(two[1], who, place="x")


async def test_a_gateway_that_is_killed_holds_no_place_for_ever(
    two: tuple[SharedBooks, SharedBooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ends, and those of others do not."""
    who = caller(concurrent=2)
    with monkeypatch.context() as patched:
        patched.setattr(shared_quota, "LEASE", 0.5)
        assert await passed(two[0], who, place="dead")
    assert await passed(two[1], who, place="alive")
    assert not await passed(two[1], who, place="next")

    async with asyncio.timeout(20):
        while not await passed(two[1], who, place="next"):
            await asyncio.sleep(0.05)
    assert not await passed(two[1], who, place="one more")


async def test_the_places_of_a_gateway_that_lives_are_renewed(
    redis: Redis, link: Link, two: tuple[SharedBooks, SharedBooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a Redis that has forgotten everything."""
    monkeypatch.setattr(shared_quota, "RENEW_EVERY", 0.05)
    who = caller(concurrent=1)
    async with SharedBooks(link) as living:
        assert await passed(living, who, place="alive")
        with redis_py.Redis(unix_socket_path=str(redis.path)) as client:
            client.flushall()
            async with asyncio.timeout(20):
                while not client.exists("altgate:limit:{ci}:places"):
                    await asyncio.sleep(0.05)

        assert not await passed(two[1], who, place="other")


async def test_a_redis_that_is_away_costs_no_time_and_the_own_books_go_on(
    redis: Redis, two: tuple[SharedBooks, SharedBooks]
) -> None:
    """Each gateway then counts for itself, from what Redis said last."""
    who = caller(requests_per_minute=10)
    for _ in range(4):
        assert await passed(two[0], who, requests=1)
    redis.kill()

    started = time.monotonic()
    alone = [await passed(two[0], who, requests=1) for _ in range(8)]

    assert sum(alone) in (6, 7)
    assert time.monotonic() - started < 5


async def test_a_redis_that_hangs_is_not_waited_for(
    redis: Redis, link: Link, two: tuple[SharedBooks, SharedBooks]
) -> None:
    """Fifty milliseconds once, and then nothing; when it goes on, it is asked again."""
    who = caller(requests_per_minute=100)
    await passed(two[0], who, requests=1)
    redis.signal(signal.SIGSTOP)
    try:
        waits = []
        for _ in range(20):
            started = time.monotonic()
            assert await passed(two[0], who, requests=1)
            waits.append(time.monotonic() - started)
    finally:
        redis.signal(signal.SIGCONT)

    assert sorted(waits)[10] < 0.02
    async with asyncio.timeout(30):
        while link.is_down:
            await asyncio.sleep(0.05)
    assert (await two[0].take(who, Wanted())).refused is None


async def test_a_place_that_redis_was_not_told_of_is_given_back_when_it_answers(
    redis: Redis, link: Link, two: tuple[SharedBooks, SharedBooks]
) -> None:
    """Long before its lease ends."""
    who = caller(concurrent=1)
    assert await passed(two[0], who, place="x")
    redis.signal(signal.SIGSTOP)
    try:
        assert not await link.ping()
        await two[0].give_back(who, Wanted(place="x"))
    finally:
        redis.signal(signal.SIGCONT)

    with redis_py.Redis(unix_socket_path=str(redis.path)) as client:
        async with asyncio.timeout(shared_quota.LEASE / 2):
            while client.exists("altgate:limit:{ci}:places"):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("garbage", [b"\xff\x00", b"nonsense", b"-5", b"9" * 30, b"1e300", b""])
async def test_garbage_in_redis_locks_nobody_out(
    redis: Redis, two: tuple[SharedBooks, SharedBooks], garbage: bytes
) -> None:
    """What is no time, or one that no bucket takes, counts for nothing."""
    who = caller(requests_per_minute=2)
    with redis_py.Redis(unix_socket_path=str(redis.path)) as client:
        client.set("altgate:limit:{ci}:requests", garbage)

    assert [await passed(two[0], who, requests=1) for _ in range(3)] == [True, True, False]


async def test_names_of_another_type_in_redis_are_no_fault_of_the_client(
    redis: Redis, two: tuple[SharedBooks, SharedBooks]
) -> None:
    """The own books hold then."""
    with redis_py.Redis(unix_socket_path=str(redis.path)) as client:
        client.lpush("altgate:limit:{ci}:requests", "x")
        client.set("altgate:limit:{ci}:places", "x")

    assert await passed(two[0], caller(requests_per_minute=1), requests=1)
    assert not await passed(two[0], caller(requests_per_minute=1), requests=1)
    assert await passed(two[0], caller(concurrent=1), place="a")


async def test_nothing_stays_in_redis(redis: Redis, two: tuple[SharedBooks, SharedBooks]) -> None:
    """Whatever is written ends by itself within a minute."""
    who = caller(requests_per_minute=2, pictures_per_minute=2, concurrent=2)
    await passed(two[0], who, requests=1, pictures=1, place="a")

    with redis_py.Redis(unix_socket_path=str(redis.path)) as client:
        names = [*client.scan_iter("*")]
        lives = [client.pttl(name) for name in names]

    assert sorted(names) == [f"altgate:limit:{{ci}}:{kind}".encode() for kind in ("pictures", "places", "requests")]
    assert all(0 < life <= 60_000 for life in lives)
