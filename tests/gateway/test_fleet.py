"""Engines that share places, with real children that do nothing but live."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway import turns
from gateway.errors import EngineUnavailable
from gateway.fleet import Fleet, Seat
from gateway.life import Health, State
from gateway.process import Process


def children() -> int:
    """How many children we have, as the kernel sees it."""
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


class Engines:
    """Processes by name, their seats in one fleet, and the order in which they were started."""

    def __init__(self, max_loaded: int, idle_timeout: float | None = None) -> None:
        self.fleet = Fleet(max_loaded=max_loaded, idle_timeout=idle_timeout)
        self.processes: dict[str, Process] = {}
        self.seats: dict[str, Seat] = {}
        self.starts: list[str] = []
        self.alive: list[int] = []
        self.faults: dict[str, str] = {}
        self.slow: set[str] = set()
        self.answering = asyncio.Event()
        self.answering.set()

    def add(self, name: str) -> Process:
        """An engine that is ready as soon as it runs, unless its name is among `slow` or `faults`."""

        async def probe() -> Health:
            self.alive.append(children())
            await self.answering.wait()
            return Health(ready=name not in self.slow)

        process = Process(name, ["cat"], probe, start_timeout=30, obstacle=lambda: self._before_start(name))
        self.processes[name] = process
        self.seats[name] = self.fleet.seat(process)
        return process

    def _before_start(self, name: str) -> str | None:
        self.starts.append(name)
        return self.faults.get(name)

    async def use(self, name: str, seconds: float = 0.0, wait: float = 30.0) -> None:
        """A request that takes so long."""
        async with self.seats[name].taken(wait):
            assert self.processes[name].state is State.READY
            await asyncio.sleep(seconds)
            assert self.processes[name].state is State.READY, "unloaded at work"

    def at_rest(self) -> bool:
        """Whether no request has left a trace."""
        seen = [seat.seen() for seat in self.seats.values()]
        return all(seat.busy == 0 and seat.waiting_since is None for seat in seen)


@asynccontextmanager
async def engines(names: str, *, max_loaded: int = 1, idle_timeout: float | None = None) -> AsyncIterator[Engines]:
    """Engines with names of one letter, running."""
    these = Engines(max_loaded, idle_timeout)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(these.fleet)
        for name in names:
            await stack.enter_async_context(these.add(name))
        yield these


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that a test can wait for."""
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.05)


@pytest.mark.usefixtures("short_turns")
@pytest.mark.parametrize("places", [1, 2])
async def test_never_are_more_loaded_than_there_are_places(places: int) -> None:
    """Four hundred requests for four engines in a random order, some of which give up: whenever a child has just been
    started, at most `places` are alive; everyone else is served, and in the end nobody has left a trace."""
    dice = random.Random(places)
    before = children()
    async with engines("abcd", max_loaded=places) as these:

        async def come(name: str, at: float, patience: float | None) -> bool:
            await asyncio.sleep(at)
            try:
                async with asyncio.timeout(patience):
                    await these.use(name, seconds=dice.random() / 50)
            except TimeoutError:
                return False
            return True

        came = await asyncio.gather(
            *(come(dice.choice("abcd"), 2 * dice.random(), dice.choice([None, None, 0.05])) for _ in range(400))
        )

        assert sum(came) >= 200
        assert len(these.starts) > len("abcd")
        assert max(these.alive) - before == places
        assert these.at_rest()


async def test_without_contention_nothing_is_ever_unloaded() -> None:
    """With a place for each, every engine is started once."""
    async with engines("ab", max_loaded=2) as these:
        for name in "abababab":
            await these.use(name)

        assert these.starts == ["a", "b"]


async def test_the_least_recently_used_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two places for three engines, the one that was used last stays."""
    monkeypatch.setattr(turns, "LINGER", 0.0)
    async with engines("abc", max_loaded=2) as these:
        for name in "abac":
            await these.use(name)

        assert (these.processes["a"].state, these.processes["b"].state) == (State.READY, State.STOPPED)


@pytest.mark.usefixtures("short_turns")
async def test_a_busy_engine_is_not_unloaded_for_another() -> None:
    """A request that lasts far beyond its engine's turn ends well, and who waited is served then."""
    async with engines("ab") as these:
        long = asyncio.create_task(these.use("a", seconds=0.5))
        await until(lambda: these.seats["a"].seen().where == "loaded")

        await these.use("b")

        assert long.done()
        await long


async def test_mixed_requests_are_served_engine_by_engine() -> None:
    """Forty requests for two engines with one place, A B A B: each is started once."""
    async with engines("ab") as these:
        await asyncio.gather(*(these.use("ab"[number % 2], seconds=0.01) for number in range(40)))

        assert these.starts == ["a", "b"]


@pytest.mark.usefixtures("short_turns")
async def test_a_steady_stream_does_not_keep_another_out() -> None:
    """Two clients that never let their engine rest: it gives way all the same, and is loaded again for them."""
    async with engines("ab") as these:
        done = asyncio.Event()

        async def stream() -> None:
            while not done.is_set():
                await these.use("a", seconds=0.02)

        streams = [asyncio.create_task(stream()) for _ in range(2)]
        await until(lambda: these.seats["a"].seen().busy == 2)
        await these.use("b", wait=10)
        done.set()
        await asyncio.gather(*streams)

        assert these.starts[:2] == ["a", "b"]


@pytest.mark.usefixtures("short_turns")
async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    """Cancelled in line: nothing is loaded for nobody, and the other engine, closed for them, is open at once."""
    async with engines("ab") as these, these.seats["a"].taken(30):
        waiting = [asyncio.create_task(these.use("b")) for _ in range(10)]
        await until(lambda: these.seats["b"].anyone_waits)
        await asyncio.sleep(turns.SHORTEST_TURN)  # the turn of the first is over, so that it is closed by now
        shut_out = asyncio.create_task(these.use("a"))
        await until(lambda: these.seats["a"].anyone_waits)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        await shut_out

        assert these.starts == ["a"]
        assert these.seats["b"].seen() == turns.Seat(name="b", where="out")
        assert these.seats["a"].seen().busy == 1


async def test_who_gives_up_in_the_moment_of_being_let_in_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place was given, and nobody came to take it: the count is right all the same."""
    async with engines("ab") as these:
        want = these.processes["b"].want

        def want_and_leave() -> None:
            want()
            leaving.cancel()

        monkeypatch.setattr(these.processes["b"], "want", want_and_leave)
        async with these.seats["a"].taken(30):
            leaving = asyncio.create_task(these.use("b"))
            await until(lambda: these.seats["b"].anyone_waits)
        await asyncio.gather(leaving, return_exceptions=True)

        assert leaving.cancelled()
        assert these.at_rest()


async def test_who_comes_while_an_engine_is_about_to_leave_waits_for_its_return() -> None:
    """Between being told to rest and resting, an engine takes nobody in."""
    async with engines("ab") as these:
        await these.use("a")
        these.answering.clear()
        other = asyncio.create_task(these.use("b"))
        await until(lambda: these.seats["a"].seen().where == "leaving")
        assert these.processes["a"].state is State.READY
        back = asyncio.create_task(these.use("a"))
        await until(lambda: these.seats["a"].anyone_waits or these.seats["a"].seen().busy > 0)
        these.answering.set()
        await asyncio.gather(other, back)

        assert these.starts == ["a", "b", "a"]


async def test_a_wait_in_line_has_an_end() -> None:
    """Who does not get a place in time is told why and when to come back, and nobody's work is disturbed."""
    async with engines("ab") as these, these.seats["a"].taken(30):
        before = time.monotonic()
        with pytest.raises(EngineUnavailable, match="'b' waits for its turn: other models are in use") as caught:
            await these.use("b", wait=0.05)

        assert 0.05 <= time.monotonic() - before < 20
        assert caught.value.retry_after is not None
        assert 1 <= caught.value.retry_after <= 60
        assert these.starts == ["a"]


async def test_who_does_not_wait_at_all_still_begins_the_load() -> None:
    """With a place free, a wait of zero seconds starts the engine and says that it loads."""
    async with engines("a") as these:
        with pytest.raises(EngineUnavailable, match="still loading"):
            await these.use("a", wait=0)
        await until(lambda: these.processes["a"].state is State.READY)

        await these.use("a", wait=0)


@pytest.mark.usefixtures("short_turns")
async def test_who_is_refused_in_line_gets_a_turn_all_the_same() -> None:
    """A client that never waits, and comes again as told, is not kept out by engines that always have work."""
    async with engines("ab") as these, asyncio.TaskGroup() as busy:
        served = asyncio.Event()

        async def stream() -> None:
            while not served.is_set():
                await these.use("a", seconds=0.02)

        for _ in range(2):
            busy.create_task(stream())
        await until(lambda: these.seats["a"].seen().busy == 2)
        with pytest.raises(EngineUnavailable, match="waits for its turn"):
            await these.use("b", wait=0)
        await until(lambda: these.seats["b"].seen().where == "loaded")
        assert these.seats["b"].seen().expected  # and so kept until it comes
        await these.use("b", wait=0)
        served.set()

    assert these.starts[:2] == ["a", "b"]


async def test_who_was_refused_and_does_not_come_back_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that was closed for it is opened again, while it still works."""
    monkeypatch.setattr(turns, "SHORTEST_TURN", 0.0)
    monkeypatch.setattr(turns, "GRACE", -0.5)  # so that it is awaited for about half a second
    async with engines("ab") as these, these.seats["a"].taken(30):
        these.processes["a"].load_seconds, these.processes["b"].load_seconds = 0.0, 1.0
        with pytest.raises(EngineUnavailable, match="waits for its turn"):
            await these.use("b", wait=0)

        shut_out = asyncio.create_task(these.use("a", wait=10))
        await until(lambda: these.seats["a"].anyone_waits)
        await shut_out

        assert these.starts == ["a"]


async def test_an_engine_waits_for_those_who_were_told_to_come_back() -> None:
    """It is not given away the moment it is loaded, because who asked for it is on the way."""
    async with engines("ab") as these:
        these.slow.add("a")
        with pytest.raises(EngineUnavailable, match="still loading"):
            await these.use("a", wait=0)
        these.slow.clear()
        other = asyncio.create_task(these.use("b"))
        await until(lambda: these.seats["a"].seen().where == "loaded")
        await these.use("a", wait=0)
        await other

        assert these.starts == ["a", "b"]


async def test_a_turn_of_one_that_sleeps_is_measured_by_its_waking() -> None:
    """Swapping it costs no more than that, so others need not wait as long as its first load took."""
    async with engines("a") as these:
        these.processes["a"].load_seconds = 60.0
        assert these.seats["a"].seen().load_seconds == 60.0
        these.processes["a"].wake_seconds = 0.5
        assert these.seats["a"].seen().load_seconds == 0.5


async def test_an_idle_engine_is_unloaded_in_time_and_loaded_again() -> None:
    """Its time to live begins when its last request has ended."""
    async with engines("a", idle_timeout=0.1) as these:
        await these.use("a", seconds=0.3)
        assert these.processes["a"].state is State.READY

        await until(lambda: these.processes["a"].state is State.STOPPED)
        await these.use("a")

        assert these.starts == ["a", "a"]


async def test_one_that_was_loaded_and_never_used_is_unloaded_too() -> None:
    """Its time to live begins with its load."""
    async with engines("a", idle_timeout=0.05) as these:
        async with these.seats["a"].taken(30):
            pass

        await until(lambda: these.processes["a"].state is State.STOPPED)


async def test_one_that_was_loaded_for_somebody_who_left_lives_its_time_too() -> None:
    """The load goes on for longer than that time, and the engine is not unloaded the moment it is there."""
    async with engines("a", idle_timeout=1.0) as these:
        these.answering.clear()
        leaving = asyncio.create_task(these.use("a"))
        await until(lambda: these.processes["a"].state is State.STARTING)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await asyncio.sleep(1.1)
        these.answering.set()
        await until(lambda: these.processes["a"].state is State.READY)

        assert these.seats["a"].seen().where == "loaded"
