"""Which engines are loaded and which wait: the decisions one by one, and a simulated machine that lives by them."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.turns import GRACE, LINGER, LONGEST_TURN, SHORTEST_TURN, Plan, Seat, Whereabouts, decide

LEAVING = 0.25  # seconds that the simulated engines take to unload


def out(name: str, waiting_since: float | None = None) -> Seat:
    """An engine that is not loaded."""
    return Seat(name=name, where="out", waiting_since=waiting_since)


def loaded(name: str, *, busy: int = 0, at: float = 0.0, used: float = 0.0, took: float = 0.0) -> Seat:
    """An engine that is loaded since `at`, last used at `used`, after loading for `took` seconds."""
    return Seat(name=name, where="loaded", busy=busy, loaded_at=at, last_used=used, load_seconds=took)


def test_who_waits_is_loaded_in_the_order_of_arrival_while_there_is_room() -> None:
    """The engine whose first request came first gets the place; nobody's engine is loaded for nothing."""
    plan = decide([out("a", 3.0), out("b", 1.0), out("c"), out("d", 2.0)], places=2, now=5.0)

    assert (plan.load, plan.unload, plan.close) == (["b", "d"], [], [])


@pytest.mark.parametrize("where", ["loading", "leaving"])
def test_a_place_is_taken_until_it_is_really_free(where: Whereabouts) -> None:
    """Neither an engine that loads nor one that unloads leaves room beside it."""
    plan = decide([Seat(name="a", where=where), out("b", 1.0)], places=1, now=5.0)

    assert plan == Plan(load=[], unload=[], close=[])


def test_the_least_recently_used_makes_room() -> None:
    """Of two that are idle, the one that was used longer ago; the other stays."""
    plan = decide([loaded("a", used=4.0), loaded("b", used=2.0), out("c", 5.0)], places=2, now=100.0)

    assert (plan.load, plan.unload) == ([], ["b"])


def test_nobody_makes_room_twice_for_one() -> None:
    """A place that is about to be free serves the one who waits; the idle engine stays."""
    seats = [Seat(name="a", where="leaving"), loaded("b"), out("c", 5.0)]

    assert decide(seats, places=2, now=100.0).unload == []


def test_a_busy_engine_keeps_its_place_for_its_turn_and_is_then_closed_but_not_unloaded() -> None:
    """A turn lasts as long as loading took; then no new requests are let in, and those that it has go on."""
    seats = [loaded("a", busy=3, at=10.0, took=5.0), out("b", 11.0)]

    within = decide(seats, places=1, now=14.9)
    after = decide(seats, places=1, now=15.0)

    assert within == Plan(load=[], unload=[], close=[], look_again=15.0)
    assert after == Plan(load=[], unload=[], close=["a"])


def test_a_turn_has_an_end_however_long_loading_took() -> None:
    """Who waits for another engine gets it before giving up, even when this one took a quarter of an hour."""
    seats = [loaded("a", busy=1, at=10.0, took=900.0), out("b", 11.0)]

    assert decide(seats, places=1, now=11.0).look_again == 10.0 + LONGEST_TURN
    assert decide(seats, places=1, now=10.0 + LONGEST_TURN).close == ["a"]


def test_an_engine_that_restarts_for_nobody_makes_room() -> None:
    """For one who waits, or when its time to live is over; else it goes on, as it does for those who are with it."""
    lonely = Seat(name="a", where="restarting", loaded_at=1.0, last_used=5.0, load_seconds=50.0)
    wanted = structs.replace(lonely, busy=1)

    assert decide([lonely, out("b", 5.0)], places=1, now=6.0) == Plan(load=[], unload=["a"], close=[])
    assert decide([lonely, out("b")], places=1, now=6.0) == Plan(load=[], unload=[], close=[])
    assert decide([lonely], places=1, now=6.0, idle_timeout=10.0).look_again == 15.0
    assert decide([lonely], places=1, now=15.0, idle_timeout=10.0).unload == ["a"]
    assert decide([wanted, out("b", 5.0)], places=1, now=6.0) == Plan(load=[], unload=[], close=[], look_again=51.0)
    assert decide([wanted, out("b", 5.0)], places=1, now=51.0) == Plan(load=[], unload=[], close=["a"])


def test_the_plan_is_made_anew_when_nobody_is_awaited_any_more() -> None:
    """An engine that was closed for somebody who does not come back is opened then."""
    awaited = Seat(name="b", where="out", waiting_since=1.0, awaited_until=30.0)

    plan = decide([loaded("a", busy=1), awaited], places=1, now=20.0)

    assert plan == Plan(load=[], unload=[], close=["a"], look_again=30.0)


def test_the_longest_turn_is_the_first_to_end() -> None:
    """Of two busy engines whose turns are over, one is closed for the one who waits: that which was loaded first."""
    seats = [loaded("a", busy=1, at=2.0), loaded("b", busy=1, at=1.0), loaded("d", busy=1, at=99.5), out("c", 5.0)]

    assert decide(seats, places=3, now=100.0) == Plan(load=[], unload=[], close=["b"])


def test_a_busy_engine_stays_open_where_an_idle_one_makes_room() -> None:
    """One who waits takes one place, and the idle engine's comes first; its idle time adds nothing."""
    seats = [loaded("a", busy=1), loaded("b"), loaded("c", busy=1, at=99.5), out("d", 5.0)]

    assert decide(seats, places=3, now=100.0, idle_timeout=50.0) == Plan(load=[], unload=["b"], close=[])


def test_no_turn_ends_while_nobody_waits() -> None:
    """An engine is neither closed nor unloaded for nothing."""
    assert decide([loaded("a", busy=1), loaded("b")], places=2, now=1e6) == Plan(load=[], unload=[], close=[])


def test_an_idle_engine_lingers_for_the_next_of_one_by_one() -> None:
    """For a tenth of what loading took it is kept for the client that is reading its answer, within its turn."""
    seats = [loaded("a", at=0.0, used=3.0, took=10.0), out("b", 2.0)]

    assert decide(seats, places=1, now=3.5).look_again == 3.0 + LINGER * 10.0
    assert decide(seats, places=1, now=4.0).unload == ["a"]
    assert decide([loaded("a", used=10.0, took=10.0), out("b", 2.0)], places=1, now=10.0).unload == ["a"]


def test_an_engine_is_kept_a_while_for_those_who_were_told_to_come_back() -> None:
    """It is not unloaded before they had the time to; when they do not come, it makes room."""
    seats = [Seat(name="a", where="loaded", expected=True, loaded_at=10.0), out("b", 1.0)]

    assert decide(seats, places=1, now=11.0) == Plan(load=[], unload=[], close=[], look_again=10.0 + GRACE)
    assert decide(seats, places=1, now=10.0 + GRACE).unload == ["a"]


def test_what_is_idle_for_long_is_unloaded_though_nobody_waits() -> None:
    """An engine at work is not; the next look is when the next one's time has come."""
    seats = [loaded("a", used=1.0), loaded("b", used=4.0), loaded("c", busy=1, used=1.0)]

    plan = decide(seats, places=3, now=11.0, idle_timeout=10.0)

    assert plan == Plan(load=[], unload=["a"], close=[], look_again=14.0)


@dataclass(frozen=True)
class Arrival:
    """A request of the simulation: when it comes, for which engine, how long it works, how long it waits; seconds.

    A client with `pause` sends it again so long after its answer.
    """

    at: float
    engine: str
    work: float
    patience: float | None = None
    pause: float | None = None


@dataclass
class Simulated:
    """An engine of the simulation. `line` has who waits for a place, `inside` who was let in and not served yet."""

    load_seconds: float
    where: Whereabouts = "out"
    open: bool = False
    changes_at: float | None = None
    line: list[Arrival] = field(default_factory=list)
    inside: list[Arrival] = field(default_factory=list)
    working: list[tuple[float, Arrival]] = field(default_factory=list)
    loaded_at: float = 0.0
    last_used: float = 0.0
    loads: int = 0


class Machine:
    """Engines on a clock of their own that only moves to the next event, and so stands still when one is forgotten."""

    def __init__(self, load_seconds: dict[str, float], places: int, idle_timeout: float | None = None) -> None:
        self.engines = {name: Simulated(seconds) for name, seconds in load_seconds.items()}
        self.places = places
        self.idle_timeout = idle_timeout
        self.now = 0.0
        self.coming: list[Arrival] = []
        self.waits: list[float] = []
        self.gone = 0

    def run(self, arrivals: list[Arrival], until: float = float("inf")) -> None:
        """Lives through all arrivals, until nothing is left that could happen or that time has come."""
        self.coming = arrivals
        for _ in range(100_000):
            look_again = self._follow_plan()
            following = min((time for time in (look_again, *self._times()) if time is not None), default=until)
            if following >= until:
                return
            assert following >= self.now, "the plan looks back"
            self.now = following
            here = [arrival for arrival in self.coming if arrival.at <= self.now]
            self.coming = [arrival for arrival in self.coming if arrival.at > self.now]
            for arrival in sorted(here, key=lambda arrival: arrival.at):
                self._arrive(arrival)
            self._happen()
        raise AssertionError("the plan is never at rest")

    def _times(self) -> list[float | None]:
        engines = self.engines.values()
        patience = [each.at + each.patience for engine in engines for each in engine.line if each.patience is not None]
        ends = [end for engine in engines for end, _ in engine.working]
        return [*(engine.changes_at for engine in engines), *(each.at for each in self.coming), *ends, *patience]

    def _follow_plan(self) -> float | None:
        plan = decide(
            [self._seen(name) for name in self.engines],
            places=self.places,
            now=self.now,
            idle_timeout=self.idle_timeout,
        )
        for name, engine in self.engines.items():
            if name in plan.unload:
                assert self._seen(name).busy == 0, "a busy engine is unloaded"
                engine.where, engine.open, engine.changes_at = "leaving", False, self.now + LEAVING
            elif name in plan.close:
                engine.open = False
            elif name in plan.load:
                assert engine.line, "an engine is loaded for nobody"
                engine.where, engine.changes_at = "loading", self.now + engine.load_seconds
                engine.loads += 1
                self._let_in(engine)
            elif engine.where in ("loading", "loaded"):
                self._let_in(engine)
        assert sum(engine.where != "out" for engine in self.engines.values()) <= self.places
        return plan.look_again

    def _seen(self, name: str) -> Seat:
        engine = self.engines[name]
        return Seat(
            name=name,
            where=engine.where,
            busy=len(engine.inside) + len(engine.working),
            waiting_since=min((each.at for each in engine.line), default=None),
            loaded_at=engine.loaded_at,
            last_used=engine.last_used,
            load_seconds=engine.load_seconds,
        )

    def _arrive(self, arrival: Arrival) -> None:
        engine = self.engines[arrival.engine]
        engine.line.append(arrival)
        if engine.open:
            self._let_in(engine)

    def _let_in(self, engine: Simulated) -> None:
        engine.open = True
        engine.inside += engine.line
        engine.line = []
        if engine.where == "loaded":
            self._serve(engine)

    def _serve(self, engine: Simulated) -> None:
        self.waits += [self.now - each.at for each in engine.inside]
        engine.working += [(self.now + each.work, each) for each in engine.inside]
        engine.inside = []

    def _happen(self) -> None:
        for engine in self.engines.values():
            if engine.changes_at is not None and engine.changes_at <= self.now:
                engine.changes_at = None
                engine.where = "loaded" if engine.where == "loading" else "out"
                engine.loaded_at = engine.last_used = self.now
                if engine.where == "loaded":
                    self._serve(engine)
            self._finish(engine)
            staying = [each for each in engine.line if each.patience is None or each.at + each.patience > self.now]
            self.gone += len(engine.line) - len(staying)
            engine.line = staying

    def _finish(self, engine: Simulated) -> None:
        done = [each for end, each in engine.working if end <= self.now]
        if done:
            engine.last_used = self.now
        engine.working = [(end, each) for end, each in engine.working if end > self.now]
        self.coming += [replace(each, at=self.now + each.pause) for each in done if each.pause is not None]


ENGINES = "abcd"
TIMES = st.integers(0, 400).map(lambda tenths: tenths / 10)
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        at=TIMES,
        engine=st.sampled_from(ENGINES),
        work=st.integers(0, 80).map(lambda tenths: tenths / 10),
        patience=st.none() | TIMES,
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(
    arrivals=ARRIVALS,
    places=st.integers(1, 3),
    loads=st.lists(st.integers(1, 100).map(lambda tenths: tenths / 10), min_size=4, max_size=4),
    idle_timeout=st.none() | st.sampled_from([0.5, 5.0]),
)
def test_however_requests_come_all_are_served_in_bounded_time(
    arrivals: list[Arrival], places: int, loads: list[float], idle_timeout: float | None
) -> None:
    """Never more engines than places, none unloaded at work or loaded for nobody; everyone is served or has given up,
    and waits for at most one turn of each other engine; in the end nothing is under way."""
    machine = Machine(dict(zip(ENGINES, loads, strict=True)), places, idle_timeout)

    machine.run(arrivals)

    turn = max(loads) + max(SHORTEST_TURN, *loads) + max((each.work for each in arrivals), default=0.0) + LEAVING
    assert len(machine.waits) + machine.gone == len(arrivals)
    assert all(wait <= (len(ENGINES) + 1) * turn for wait in machine.waits)
    assert not any(engine.line or engine.inside or engine.working for engine in machine.engines.values())
    if idle_timeout is not None:
        assert all(engine.where == "out" for engine in machine.engines.values())


def test_mixed_requests_are_served_model_by_model() -> None:
    """Forty requests for two models, A B A B, all at once: one load of each."""
    machine = Machine({"a": 5.0, "b": 5.0}, places=1)

    machine.run([Arrival(at=number / 100, engine="ab"[number % 2], work=0.5) for number in range(40)])

    assert [engine.loads for engine in machine.engines.values()] == [1, 1]


def test_a_steady_stream_for_one_model_keeps_another_out_for_no_longer_than_a_turn() -> None:
    """Though the first engine never has nothing to do, it gives way when its turn is over."""
    machine = Machine({"a": 5.0, "b": 5.0}, places=1)
    steady = [Arrival(at=number / 10, engine="a", work=0.35) for number in range(400)]

    machine.run([*steady, Arrival(at=6.0, engine="b", work=0.1, patience=60.0)])

    assert machine.engines["b"].loads == 1
    assert machine.gone == 0
    assert max(machine.waits) <= 2 * 5.0 + 5.0 + 0.35 + 2 * LEAVING


@pytest.mark.parametrize("pause", [0.0, 0.2, 0.45])
def test_two_who_ask_one_by_one_do_not_swap_for_every_request(pause: float) -> None:
    """Each of two clients sends its next request when it has read its answer; at most half of the time is loading."""
    machine = Machine({"a": 5.0, "b": 5.0}, places=1)

    machine.run([Arrival(at=0.0, engine=name, work=0.1, pause=pause) for name in "ab"], until=200.0)

    assert sum(engine.loads for engine in machine.engines.values()) <= 200.0 / (5.0 + 5.0) + 1
    assert all(engine.loads > 5 for engine in machine.engines.values())


@pytest.mark.parametrize("pause", [0.6, 3.0, 20.0])
def test_who_pauses_for_longer_than_an_engine_lingers_holds_nobody_up(pause: float) -> None:
    """Such clients may swap for every request; in return nobody waits for more than the other's load and the own."""
    machine = Machine({"a": 5.0, "b": 5.0}, places=1)

    machine.run([Arrival(at=0.0, engine=name, work=0.1, pause=pause) for name in "ab"], until=200.0)

    assert max(machine.waits) <= 2 * (LEAVING + 5.0) + 0.1 + LINGER * 5.0 + 1e-6
