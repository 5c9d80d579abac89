"""The way to Redis: whatever becomes of it, a request loses fifty milliseconds at most, and once."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.redis import Link, link
from gateway.redis.telling import MAX_BYTES, MAX_WAITING
from gateway.shared import Unanswered
from tests.gateway.redis.faults import Way
from tests.services import Redis, running_redis

ROOM = 0.45  # seconds: what a busy machine may add


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


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for a Redis that is well on a machine that is busy, where the limit itself is not to be seen."""
    monkeypatch.setattr(link, "PATIENCE", 10.0)


def get(name: str) -> Callable[[Any], Any]:
    """Asks for a key."""
    return lambda client: client.get(name)


def put(name: str, value: str) -> Callable[[Any], Any]:
    """Sets a key."""
    return lambda client: client.set(name, value)


def append(number: int) -> Callable[[Any], Any]:
    """Adds to a list."""
    return lambda client: client.rpush("list", number)


async def unanswered(to: Link) -> float:
    """How long it takes to be left without an answer, in seconds."""
    started = time.perf_counter()
    with pytest.raises(Unanswered):
        await to.ask(get("k"))
    return time.perf_counter() - started


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def order(server: Redis, *command: object) -> object:
    """Has the server do something."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        return client.execute_command(*command)


TROUBLES: dict[str, tuple[Callable[[Redis, Way], object], Callable[[Redis, Way], object]]] = {
    "killed": (lambda server, _: server.kill(), lambda server, _: server.start()),
    "stopped": (lambda server, _: server.signal(signal.SIGSTOP), lambda server, _: server.signal(signal.SIGCONT)),
    "black hole": (lambda _, way: setattr(way, "hole", True), lambda _, way: setattr(way, "hole", False)),
    "two seconds slow": (lambda _, way: setattr(way, "delay", 2.0), lambda _, way: setattr(way, "delay", 0.0)),
    "a little too slow": (lambda _, way: setattr(way, "delay", 0.08), lambda _, way: setattr(way, "delay", 0.0)),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble_costs_fifty_milliseconds_once(server: Redis, way: Way, trouble: str) -> None:
    """The first who meets it waits that long, the next hundred do not, and when it is over Redis is asked again."""
    begin, end = TROUBLES[trouble]
    async with Link(way.url) as to:
        await until(lambda: not to.is_down)
        await to.ask(put("k", "v"), patience=5.0)
        begin(server, way)

        first = await unanswered(to)
        later = sum([await unanswered(to) for _ in range(100)])

        assert to.is_down
        end(server, way)
        await until(lambda: not to.is_down)
        assert await to.ask(get("k"), patience=5.0) == (None if trouble == "killed" else b"v")

    assert first < link.PATIENCE + ROOM
    assert later < ROOM  # each would have waited for 0.05 s, a hundred of them for 5 s


async def test_a_slow_answer_to_the_patient_is_no_sign_that_it_is_fast(way: Way) -> None:
    """What was asked with more patience is still answered, and those who have less do not lose theirs again."""
    async with Link(way.url) as to:
        await until(lambda: not to.is_down)
        await to.ask(put("k", "v"), patience=5.0)
        way.delay = 0.2
        answered: list[object] = []
        to.tell(put("k", "w"), then=answered.append)
        asked = asyncio.ensure_future(to.ask(get("k"), patience=5.0))
        first = await unanswered(to)
        await asked
        await to.told()

        assert answered == [True]
        assert to.is_down
        assert sum([await unanswered(to) for _ in range(100)]) < ROOM
        way.delay = 0.0
        await until(lambda: not to.is_down)

    assert first < link.PATIENCE + ROOM


def saying(words: bytes) -> tuple[Callable[[Redis, Way], object], Callable[[Redis, Way], object]]:
    """A Redis that says that to everything, and one that does not any more."""
    return lambda _, way: setattr(way, "says", words), lambda _, way: setattr(way, "says", b"")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "words",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["loading", "no password", "no Redis"],
)
async def test_one_that_cannot_serve_is_away_until_it_can(server: Redis, way: Way, words: bytes) -> None:
    """No answer is made of what it says, and nobody waits for it."""
    begin, end = saying(words)
    async with Link(way.url) as to:
        await to.ask(put("k", "v"))
        begin(server, way)
        await unanswered(to)
        assert to.is_down
        end(server, way)
        await until(lambda: not to.is_down)

        assert await to.ask(get("k")) == b"v"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("words", [b"-MOVED 3999 127.0.0.1:1\r\n", b"-MASTERDOWN x\r\n", b"-ERR unknown command\r\n"])
async def test_what_is_refused_is_a_miss_and_no_outage(server: Redis, way: Way, words: bytes) -> None:
    """One by one and together, whoever waits for it and who does not; the log says so once."""
    begin, end = saying(words)
    told: list[object] = []
    async with Link(way.url) as to:
        await to.ask(put("k", "v"))
        begin(server, way)
        await unanswered(to)
        with pytest.raises(Unanswered):
            await to.ask_together(get("k"))
        to.tell(put("k", "v"), then=told.append)
        await to.told()
        end(server, way)

        assert not to.is_down
        assert [isinstance(each, Unanswered) for each in told] == [True]
        assert await to.ask(get("k")) == b"v"


def fails(_: object) -> Any:
    """A command that fails as nobody has thought of."""
    raise RuntimeError("nobody has thought of this")


@pytest.mark.usefixtures("patient")
async def test_a_fault_that_nobody_has_thought_of_is_an_outage_that_ends(
    server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked alone, together, or by who waits for nothing: none is left waiting, and the log says what it was."""
    told: list[object] = []
    async with Link(server.url) as to:
        for ask in (to.ask, to.ask_together):
            with pytest.raises(Unanswered):
                await ask(fails)
            assert to.is_down
            await until(lambda: not to.is_down)
        to.tell(fails, then=told.append)
        await to.told()
        await until(lambda: not to.is_down)

        assert await to.ask(put("k", "v"))
        assert await to.ask_together(get("k")) == b"v"

    assert [isinstance(each, Unanswered) for each in told] == [True]
    assert "RuntimeError" in caplog.text


@pytest.mark.usefixtures("patient")
async def test_who_fails_over_an_answer_does_so_alone(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """What was told with it, and after it, is done, and who asked hears of it."""
    told: list[object] = []

    def fail(_: object) -> None:
        raise ValueError("this cannot be used")

    async with Link(server.url) as to:
        for number in range(3):
            to.tell(append(number), then=fail if number == 1 else told.append)
        await to.told()
        to.tell(append(3), then=told.append)
        await to.told()

    assert told == [1, 3, 4]
    assert "could not be used" in caplog.text


async def test_one_that_is_away_at_the_start_costs_nothing(tmp_path: Path) -> None:
    """It is known before the first request comes."""
    async with Link(f"unix://{tmp_path}/nothing.sock") as to:
        assert to.is_down
        assert await unanswered(to) < ROOM


@pytest.mark.usefixtures("patient")
async def test_an_answer_that_is_cut_is_none(way: Way) -> None:
    """A connection that is reset in the middle of an answer costs this answer, and is not used again."""
    async with Link(way.url) as to:
        await to.ask(lambda client: client.set("k", "v" * 1_000))
        way.resets = True
        await unanswered(to)
        await until(lambda: not to.is_down)

        assert await to.ask(get("k")) == b"v" * 1_000


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("trouble", ["read-only", "full", "forbidden"])
async def test_one_that_refuses_to_write_still_reads(
    server: Redis, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is refused is dropped at once and without an outage; the log says so once, however often it happens."""
    async with Link(server.url) as to:
        await to.ask(lambda client: client.set("k", "v"))
        match trouble:
            case "read-only":
                order(server, "replicaof", "127.0.0.1", "1")
            case "full":
                order(server, "config", "set", "maxmemory", "1")
            case _:
                order(server, "acl", "setuser", "default", "-set")
        started = time.perf_counter()
        for _ in range(100):
            with pytest.raises(Unanswered):
                await to.ask(lambda client: client.set("k", "w"))
        took = time.perf_counter() - started

        assert await to.ask(get("k")) == b"v"
        assert not to.is_down
    assert took < link.PATIENCE  # each would have waited so long
    assert len(caplog.messages) == 1


@pytest.mark.usefixtures("patient")
async def test_many_at_once_are_no_outage(server: Redis) -> None:
    """More askers than connections wait for one another, and each gets its answer."""
    async with Link(server.url) as to:
        await to.ask(lambda client: client.mset({str(number): number for number in range(200)}))

        found = await asyncio.gather(*(to.ask(get(str(number))) for number in range(200)))

        assert found == [str(number).encode() for number in range(200)]
        assert order(server, "client", "list").count(b"\n") <= link.CONNECTIONS + 1  # type: ignore[attr-defined]


async def test_a_busy_gateway_takes_no_redis_for_dead(server: Redis) -> None:
    """The answer came in time, though nobody had the time to read it."""
    async with Link(server.url) as to:
        await until(lambda: not to.is_down)
        await to.ask(put("k", "v"), patience=5.0)
        for _ in range(10):
            asked = asyncio.ensure_future(to.ask(get("k")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(link.PATIENCE * 2)  # noqa: ASYNC251 - something that holds up the loop

            assert await asked == b"v"


async def test_eight_thousand_who_leave_get_no_wrong_answers(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third leaves while Redis answers them; whoever stays gets the value of its own key, and nobody another's."""
    monkeypatch.setattr(link, "PATIENCE", 30.0)
    dice = random.Random(1)
    left = wrong = right = 0

    async with Link(server.url) as to:
        for number in range(200):
            await to.ask(put(str(number), str(number) * 50))

        async def ask(number: int, patience: float) -> None:
            nonlocal left, wrong, right
            way_to_ask = dice.choice([to.ask, to.ask_together])
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    answer = await way_to_ask(get(str(number)))
                right, wrong = (
                    right + (answer == str(number).encode() * 50),
                    wrong + (answer != str(number).encode() * 50),
                )
                return
            left += 1

        for _ in range(20):
            chosen = [(dice.randrange(200), dice.choice([30.0, 30.0, dice.random() / 20])) for _ in range(400)]
            await asyncio.gather(*(ask(*each) for each in chosen))

        assert not to.is_down

    assert wrong == 0
    assert left + right == 8_000
    assert left > 500
    assert right > 4_000


async def test_what_nobody_waits_for_is_bounded_and_in_order(server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """What may be dropped is, where too much waits, and the log says so; what others wait for goes in any case. What is
    queued is written at the close."""
    dropped: list[object] = []
    async with Link(server.url) as to:
        for number in range(MAX_WAITING * 4):
            to.tell(append(number), size=1, then=lambda answer: dropped.append(isinstance(answer, Unanswered)))
        to.tell(append(-1))

    assert order(server, "lrange", "list", 0, -1) == [str(number).encode() for number in [*range(MAX_WAITING), -1]]
    assert Counter(dropped) == {True: MAX_WAITING * 3, False: MAX_WAITING}
    assert [line for line in caplog.messages if "too slow" in line] == [caplog.messages[0]]


async def test_what_waits_is_bounded_in_bytes_too(server: Redis) -> None:
    """Large answers fill the memory that is set aside before there are many of them."""
    answers: list[object] = []
    async with Link(server.url) as to:
        for _ in range(3):
            to.tell(put("k", "v"), size=MAX_BYTES // 2, then=answers.append)
        await to.told()
        to.tell(put("k", "v"), size=MAX_BYTES // 2, then=answers.append)

    assert [isinstance(answer, Unanswered) for answer in answers] == [True, False, False, False]


async def test_a_redis_some_way_off_takes_many_times_what_it_took_one_by_one(server: Redis, way: Way) -> None:
    """With 8 ms there and back, two thousand answers and the leases on them go in less than the time of two hundred,
    nothing is dropped, and no lease is given back before its answer is there."""
    async with Link(way.url) as to:
        await until(lambda: not to.is_down)
        way.delay = 0.008
        lost: list[object] = []
        started = time.monotonic()
        for number in range(1_000):
            to.tell(append(number), size=1, then=lost.append)
            to.tell(append(-number))
        await to.told()
        took = time.monotonic() - started

    assert [answer for answer in lost if isinstance(answer, Unanswered)] == []
    assert order(server, "lrange", "list", 0, -1) == [str(each).encode() for n in range(1_000) for each in (n, -n)]
    assert took < 200 * 0.008 + ROOM
