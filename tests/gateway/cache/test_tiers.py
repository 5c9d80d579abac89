"""Two levels: this process's own, and Redis behind it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import redis

from gateway import cache
from gateway.cache import Cache, Selection, Stored, notes, tiers
from gateway.cache import redis as shared
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.cache.removals import REMEMBERED
from gateway.cache.stored import MAX_VALUE, encode
from gateway.redis import Link, link
from gateway.shared import Unanswered
from tests.gateway.cache.answers import USAGE, choices, named, stored
from tests.gateway.redis.servers import cluster
from tests.services import Redis, running_redis


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for a Redis that is well on a machine that is busy; what the limit itself does has its own tests."""
    monkeypatch.setattr(link, "PATIENCE", 5.0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Redis]:
    """A real redis-server of its own."""
    with running_redis(tmp_path) as redis_server:
        yield redis_server


@pytest.fixture
async def way(server: Redis) -> AsyncIterator[Link]:
    """The way to it."""
    async with Link(server.url) as running:
        yield running


def two_levels(way: Link) -> Cache:
    """A gateway's cache."""
    return Cache(MemoryStore(max_bytes=2**20), RedisStore(way), ttl=100)


async def kept(one: Cache, way: Link, key: str, words: str = "a cat", seconds: float = 0.5) -> None:
    """Keeps an answer, and returns when Redis has it."""
    one.keep(key, choices(words), USAGE, seconds=seconds)
    await way.told()


async def words(one: Cache, key: str) -> str | None:
    """What is found."""
    found = await one.get(key)
    return found.choices[0].message.content if found is not None else None


async def test_what_one_gateway_kept_another_finds(way: Link) -> None:
    """In Redis first, and from then on in its own memory; what was never kept is a miss."""
    one, other = two_levels(way), two_levels(way)
    await kept(one, way, "k")

    assert await words(other, "k") == "a cat"
    assert await words(other, "nothing") is None
    assert (await other.report()).memory.entries == 1


async def test_an_answer_of_hours_ago_is_found(way: Link) -> None:
    """It is used for as long as it lives, unless a removal of late has meant it."""
    one = two_levels(way)
    now = time.time()
    for key in (named(1, "p"), named(2, "q")):
        RedisStore(way).put(stored(key, made=now - 7200, expires=now + 60), removed=lambda: None)
    await way.told()
    found = await words(one, named(1, "p"))
    fresh = two_levels(way)
    await fresh.remove_own(Selection(digest="p"))

    assert found == "a cat"
    assert [await words(fresh, key) for key in (named(1, "p"), named(2, "q"))] == [None, "a cat"]


async def test_what_is_being_removed_is_not_found_any_more() -> None:
    """From the first moment, though many answers take their time; what is not meant is."""
    one = Cache(MemoryStore(max_bytes=2**22), ttl=100)
    for number in range(1000):
        one.keep(named(number, scope="a" if number else "b"), choices("a cat"), USAGE, seconds=0.1)

    removing = asyncio.create_task(one.remove(Selection(scope="a")))
    await asyncio.sleep(0)
    found = [await words(one, named(number, scope=scope)) for number, scope in ((999, "a"), (0, "b"))]

    assert not removing.done()
    assert found == [None, "a cat"]
    assert (await removing).memory.entries == 999


async def test_an_answer_that_took_longer_than_notes_are_remembered_is_not_kept() -> None:
    """Nobody could say any more whether it was meant by a removal."""
    one = Cache(MemoryStore(max_bytes=2**20), ttl=100)
    one.keep(named(1), choices("a cat"), USAGE, seconds=REMEMBERED)
    one.keep(named(2), choices("a cat"), USAGE, seconds=REMEMBERED - 1)

    assert [await words(one, key) for key in (named(1), named(2))] == [None, "a cat"]


async def test_every_key_in_redis_is_ours_and_has_a_time_to_live(server: Redis, way: Link) -> None:
    """A tenth more or less than what is configured, so that not all of them end at once."""
    for number in range(20):
        await kept(two_levels(way), way, named(number))

    with redis.Redis(unix_socket_path=str(server.path)) as client:
        names = client.keys()
        lives = [client.pttl(name) / 1000 for name in names]
    assert {name.startswith(b"altgate:answer:v3:{t:m::") for name in names} == {True}
    assert all(85 < each <= 110 for each in lives)
    assert len({round(each, 2) for each in lives}) > 10


def _bytes(value: Stored) -> bytes:
    return encode(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"\xc1",
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"version": cache.VERSION}),
        _bytes(stored("another")),
        _bytes(stored("k", version=cache.VERSION + 1)),
        _bytes(stored("k", version=cache.VERSION - 1)),
        _bytes(stored("k", expires=time.time() - 1)),
        _bytes(stored("k"))[:-1],
        _bytes(stored("k", "x" * MAX_VALUE)),
        b"x" * 2**26,
    ],
    ids=range(12),
)
async def test_a_value_that_is_not_ours_is_a_miss(server: Redis, way: Link, value: bytes) -> None:
    """Garbage, another key's answer, another version's, one cut off, one too old and one too large are never answered
    with, and none of them is an outage."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.set(shared.name("k"), value)

    assert await words(two_levels(way), "k") is None
    assert not way.is_down


async def test_a_key_of_another_kind_is_a_miss_and_no_outage(server: Redis, way: Link) -> None:
    """What Redis refuses for one key says nothing of the others."""
    one = two_levels(way)
    await kept(one, way, "k")
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.rpush(shared.name("list"), "x")

    assert await words(one, "list") is None
    assert await words(two_levels(way), "k") == "a cat"


async def test_what_another_gateway_removed_is_gone_soon_and_stays_while_redis_is_away(
    server: Redis, way: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway's own copy is trusted for a while, then Redis is asked again; when it does not say, the copy stands."""
    one, other = two_levels(way), two_levels(way)
    key = named(1, "p")
    await kept(one, way, key)
    assert await words(other, key) == "a cat"
    await one.remove(Selection(digest="p"))
    assert await words(one, key) is None

    assert await words(other, key) == "a cat"
    monkeypatch.setattr(tiers, "TRUSTED", 0.0)
    assert await words(other, key) is None

    await kept(one, way, key, seconds=0.0)
    assert await words(other, key) == "a cat"
    server.kill()
    assert await words(other, key) == "a cat"


async def test_what_is_chosen_is_removed_and_nothing_else(server: Redis, way: Link) -> None:
    """Of a team, of a model, of a picture, or one answer; neither others' keys nor others' answers, among hundreds."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.mset({f"theirs:{number}": "x" for number in range(1_000)} | {"altgate:limit:v1:x": "x"})
    for number in range(100):
        await kept(two_levels(way), way, named(number, "x", scope="other"))
    one = two_levels(way)
    for key in (
        named(1, "x", scope="a"),
        named(2, "x", scope="a", model="n"),
        named(3, "y", "q", scope="ab"),
        named(4, "x", scope="c"),
    ):
        await kept(one, way, key)

    async def removed(**chosen: str) -> tuple[int, int]:
        told = await one.remove(Selection(**chosen))
        assert told.redis is not None
        assert told.redis.complete
        return told.memory.entries, told.redis.entries

    assert await removed(scope="b") == (0, 0)
    assert await removed(scope="*") == (0, 0)
    assert await removed(model="?", digest="*") == (0, 0)
    assert await removed(model="n") == (1, 1)
    assert await removed(digest="q") == (1, 1)
    assert await removed(digest="4") == (1, 2)  # one of the others has that digest too
    assert await removed(scope="a") == (1, 1)
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        assert len(client.keys("theirs:*")) == 1_000
        assert len(client.keys("altgate:answer:v3:{other:*}")) == 99
        assert client.dbsize() == 1_000 + 1 + 99 + 1  # the last is the note of what was removed


async def test_the_report_says_what_was_saved(way: Link) -> None:
    """Counts of this process, and what both levels hold."""
    one = two_levels(way)
    await kept(one, way, named(1))
    one.tally.hit(USAGE, 0.5)
    one.tally.join(USAGE, 0.25)
    one.tally.miss()

    report = await one.report()

    assert (report.hits, report.joins, report.misses, report.saved_seconds, report.saved_tokens) == (1, 1, 1, 0.75, 6)
    assert report.redis is not None
    assert (report.memory.entries, report.redis.entries, report.redis.complete) == (1, 1, True)
    assert report.redis.bytes > 100


async def test_a_redis_that_is_away_is_not_all_there_is(server: Redis, way: Link) -> None:
    """Who counts or removes is told that it may not be all."""
    one = two_levels(way)
    server.kill()
    removed, counted = await one.remove(Selection(scope="a")), await one.report()

    assert removed.redis is not None
    assert counted.redis is not None
    assert not removed.redis.complete
    assert not counted.redis.complete
    with pytest.raises(Unanswered):
        await RedisStore(way).get("k")


async def test_a_redis_full_of_others_keys_is_looked_through_and_not_held_for_dead(
    way: Link, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to find ours among them."""
    monkeypatch.setattr(shared, "SCANNED", 1)
    monkeypatch.setattr(shared, "BATCH_PATIENCE", 0.05)
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.mset({f"theirs:{number}": "x" for number in range(3000)})
    one = two_levels(way)
    for number in range(3):
        await kept(one, way, named(number))

    report = await one.report()

    assert report.redis is not None
    assert (report.redis.entries, report.redis.complete, way.is_down) == (3, True, False)


async def test_what_was_being_made_when_it_was_removed_is_not_kept_anywhere(server: Redis, way: Link) -> None:
    """Nor by the gateway that makes it, nor in Redis, whichever gateway was told to remove; what is not meant is, and
    what is made later."""
    async with Link(server.url) as other_way:
        one, other = two_levels(way), two_levels(other_way)
        stale, later, others = named(1, "p"), named(2, "p"), named(3, "q")
        removed = await one.remove(Selection(digest="p"))
        assert removed.redis is not None
        assert removed.redis.complete
        for gateway, its_way in ((one, way), (other, other_way)):
            await kept(gateway, its_way, stale, seconds=60)
            await kept(gateway, its_way, others, seconds=60)
            async with asyncio.timeout(20):  # for as long as a question to Redis takes nobody can say what came first
                while await words(gateway, later) is None:
                    await kept(gateway, its_way, later, seconds=0)

        for gateway in (one, other, two_levels(way)):
            assert [await words(gateway, key) for key in (stale, later, others)] == [None, "a cat", "a cat"]


async def test_what_was_being_made_when_answers_were_removed_is_not_kept_without_redis_either() -> None:
    """Whoever clears the cache because answers are wrong does not get them back; what is made later is kept."""
    one = Cache(MemoryStore(max_bytes=2**20), ttl=100)
    await one.remove(Selection())

    one.keep(named(1), choices("wrong"), USAGE, seconds=60)
    one.keep(named(2), choices("right"), USAGE, seconds=0)

    assert [await words(one, key) for key in (named(1), named(2))] == [None, "right"]


class Slow(RedisStore):
    """A Redis whose answer is on its way for as long as `go` is not set."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def get(self, key: str) -> Stored | None:
        """What lay there when it was asked."""
        found = await super().get(key)
        self.asked.set()
        await self.go.wait()
        return found


async def test_an_answer_found_while_it_is_removed_is_not_found_again(way: Link) -> None:
    """It was on its way from Redis into the memory of the gateway that removed it there."""
    slow, key = Slow(way), named(1, "p")
    one = Cache(MemoryStore(max_bytes=2**20), slow, ttl=100)
    await kept(two_levels(way), way, key)

    looking = asyncio.ensure_future(words(one, key))
    await slow.asked.wait()
    await one.remove(Selection(digest="p"))
    slow.go.set()
    await looking

    assert await words(one, key) is None


async def test_a_cluster_heeds_what_was_removed(tmp_path: Path) -> None:
    """Where notes and answers lie on several nodes an answer is written first, and taken back when it was meant, or
    when nobody can say."""
    with cluster(tmp_path) as port:
        async with Link(f"redis+cluster://127.0.0.1:{port}") as way:
            one, other = two_levels(way), two_levels(way)
            await one.remove(Selection(digest="p"))
            for key in (named(1, "p"), named(2, "q")):
                await kept(other, way, key, seconds=60)
            found = [await words(two_levels(way), key) for key in (named(1, "p"), named(2, "q"))]
            with redis.Redis(port=port) as client:
                client.set(notes.NAME, "x")
            await kept(other, way, named(3, "q"))

            assert found == [None, "a cat"]
            assert await words(two_levels(way), named(3, "q")) is None
            assert await words(other, named(3, "q")) is None


@pytest.mark.parametrize("note", ["another kind", "unreadable"])
async def test_where_nobody_can_say_what_was_removed_nothing_is_kept(server: Redis, way: Link, note: str) -> None:
    """And what could not be noted is not called complete."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        if note == "unreadable":
            client.zadd(notes.NAME, {b"\xff": time.time() * 1e6 + 1e6})
        else:
            client.set(notes.NAME, "x")
    removed = await two_levels(way).remove(Selection(scope="a"))
    await kept(two_levels(way), way, named(1))

    assert removed.redis is not None
    assert removed.redis.complete == (note == "unreadable")
    assert await words(two_levels(way), named(1)) is None


async def test_a_redis_that_is_full_still_notes_what_is_removed(server: Redis, way: Link) -> None:
    """It is when Redis is full that people remove things."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.config_set("maxmemory", 1)
        removed = await two_levels(way).remove(Selection(scope="t"))
        client.config_set("maxmemory", 0)
    await kept(two_levels(way), way, named(1), seconds=60)

    assert removed.redis is not None
    assert removed.redis.complete
    assert await words(two_levels(way), named(1)) is None


async def test_notes_in_redis_are_few_and_end_by_themselves(
    server: Redis, way: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the oldest meant is every answer, when there are too many of them."""
    monkeypatch.setattr(notes, "MOST", 3)
    one, other = two_levels(way), two_levels(way)
    began = time.monotonic()
    for number in range(10):
        await one.remove(Selection(digest=str(number)))
    await kept(other, way, named("x"), seconds=time.monotonic() - began)

    assert await words(two_levels(way), named("x")) is None
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        assert client.zcard(notes.NAME) <= 4
        assert 0 < client.ttl(notes.NAME) <= 3600


async def test_what_redis_was_not_given_is_counted(server: Redis, way: Link) -> None:
    """An answer that only this process keeps is one that others make again."""
    one = two_levels(way)
    await kept(one, way, named(1))
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.config_set("maxmemory", 1)
    await kept(one, way, named(2))

    assert await words(one, named(2)) == "a cat"
    assert (await one.report()).not_shared == 1


async def test_removing_one_picture_of_many_asks_redis_a_few_times(server: Redis, way: Link) -> None:
    """As often as there are thousands of names to look at, and not once for each answer; values are not read at all."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        value = b"x" * 1_000
        client.mset({shared.name(named(number, f"p{number % 1_000}")): value for number in range(10_000)})
        client.config_resetstat()
        removed = await RedisStore(way).remove(Selection(digest="p7"))
        asked = {name: each["calls"] for name, each in client.info("commandstats").items()}
        left = client.dbsize() - 1  # the note

    assert (removed.entries, removed.bytes, removed.complete, left) == (10, 10_000, True, 9_990)
    assert asked["cmdstat_scan"] < 15
    assert asked["cmdstat_eval"] == 2
    assert asked.keys() & {"cmdstat_get", "cmdstat_getrange"} == set()
