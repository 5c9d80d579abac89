"""Identical requests under way: one generation for all who want it, for as long as somebody does."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway import flight as flights
from gateway.errors import EngineFault, EngineUnavailable, GatewayError, InvalidRequest
from gateway.flight import Flight, Flights, Made, weight
from gateway.wire import (
    AssistantMessage,
    Choice,
    Chunk,
    ChunkChoice,
    Delta,
    FunctionDelta,
    Logprobs,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

EVER = float("inf")


def made(words: str = "a cat") -> Made:
    """A whole answer."""
    message = AssistantMessage(content=words)
    return Made(choices=[Choice(index=0, message=message, finish_reason="stop")], usage=Usage(1, 2, 3), seconds=1.0)


def piece(words: str) -> Chunk:
    """A piece of a stream."""
    return Chunk(id="x", created=1, model="m", choices=[ChunkChoice(index=0, delta=Delta(content=words))])


class Generation:
    """Answers as told. `calls` counts the generations, `ended` those that were ended; `go` lets them finish."""

    def __init__(self, *outcomes: Made | GatewayError, pieces: tuple[str, ...] = ()) -> None:
        self.outcomes = outcomes or (made(),)
        self.pieces = pieces
        self.calls = self.ended = 0
        self.waits: list[float | None] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, flight: Flight, wait: float | None) -> Made:
        """One generation."""
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        self.waits.append(wait)
        self.begun.set()
        try:
            for words in self.pieces:
                await flight.publish(piece(words))
            await self.go.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended += 1
            raise
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome


async def whole(
    table: Flights, generation: Any, key: str | None = "k", *, until: float = EVER, wait: float | None = None
) -> Made:
    """What one is given who wants the answer whole."""
    async with table.aboard(key, generation, wait=wait, until=until) as passage:
        return await passage.landed()


async def streamed(table: Flights, generation: Any, heard: list[str], key: str | None = "k") -> list[str]:
    """What one is given who wants it as it is made; `heard` is what has come so far."""
    async with table.aboard(key, generation, wait=None, until=EVER) as passage:
        async for chunk in passage.pieces():
            heard += [choice.delta.content or "" for choice in chunk.choices]
        await passage.landed()
    return heard


async def ends_of(*tasks: "asyncio.Future[Any]") -> list[Any]:
    """What they come to, faults included."""
    async with asyncio.timeout(20):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def test_a_thousand_share_one_generation() -> None:
    """Whole and streamed; and who asks afterwards has one of its own."""
    table, generation = Flights(), Generation(pieces=("a ", "cat"))
    heard: list[list[str]] = [[] for _ in range(500)]
    streams = [asyncio.ensure_future(streamed(table, generation, each)) for each in heard]
    wholes = [asyncio.ensure_future(whole(table, generation)) for _ in range(500)]
    await until(lambda: all(len(each) == 2 for each in heard))
    generation.go.set()

    assert await asyncio.gather(*wholes) == [made()] * 500
    assert await asyncio.gather(*streams) == [["a ", "cat"]] * 500
    assert generation.calls == 1
    await whole(table, generation)
    assert generation.calls == 2
    assert "k" not in table


async def test_nobody_comes_aboard_of_what_was_closed() -> None:
    """Who is aboard stays, who comes has another one made, and others' flights go on."""
    table, generation = Flights(), Generation()
    before = [asyncio.ensure_future(whole(table, generation, key)) for key in ("a", "a", "b")]
    await until(lambda: generation.calls == 2)

    table.close(lambda key: key == "a")
    after = [asyncio.ensure_future(whole(table, generation, key)) for key in ("a", "a", "b")]
    await until(lambda: generation.calls == 3)
    generation.go.set()

    assert await asyncio.gather(*before, *after) == [made()] * 6
    assert (generation.calls, "a" in table, "b" in table) == (3, False, False)


async def test_another_key_and_none_are_not_shared() -> None:
    """Who wants no other's answer has one of its own, at the same time."""
    table, generation = Flights(), Generation()
    tasks = [asyncio.ensure_future(whole(table, generation, key)) for key in ("a", "b", None, None, "a")]
    await until(lambda: generation.calls == 4)
    generation.go.set()

    await asyncio.gather(*tasks)
    assert generation.calls == 4


async def test_who_comes_late_is_given_the_beginning_and_then_the_rest() -> None:
    """The first has heard half of it by then."""
    table, generation = Flights(), Generation(pieces=("one", "two"))
    first: list[str] = []
    late: list[str] = []
    tasks = [asyncio.ensure_future(streamed(table, generation, first))]
    await until(lambda: first == ["one", "two"])
    tasks.append(asyncio.ensure_future(streamed(table, generation, late)))
    await until(lambda: late == ["one", "two"])
    generation.go.set()

    await asyncio.gather(*tasks)
    assert generation.calls == 1


@pytest.mark.parametrize("kind", ["whole", "streamed"])
async def test_the_first_who_leaves_hands_over(kind: str) -> None:
    """The generation goes on for the others; the last one who leaves ends it, and waits until it has ended."""
    table, generation = Flights(), Generation(pieces=("one",))

    async def wanted() -> object:
        return await (whole(table, generation) if kind == "whole" else streamed(table, generation, []))

    tasks = [asyncio.ensure_future(wanted()) for _ in range(3)]
    await generation.begun.wait()

    for task in tasks[:2]:
        task.cancel()
        await ends_of(task)
    assert generation.ended == 0
    tasks[2].cancel()
    await ends_of(tasks[2])

    assert (generation.calls, generation.ended) == (1, 1)
    assert "k" not in table


async def test_who_comes_while_the_last_one_leaves_has_a_generation_of_its_own() -> None:
    """One that is being ended is nobody's any more."""
    table, generation = Flights(), Generation()
    task = asyncio.ensure_future(whole(table, generation))
    await generation.begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    other = asyncio.ensure_future(whole(table, generation))
    await until(lambda: generation.calls == 2)
    generation.go.set()

    assert await other == made()


FAULT = EngineFault("garbage")


@pytest.mark.parametrize(
    ("outcomes", "calls", "error"),
    [
        ((FAULT, made()), 2, None),
        ((FAULT,), 2, "garbage"),
        ((InvalidRequest("yours"),), 1, "yours"),
        ((EngineUnavailable("died", retry_after=1),), 1, "died"),
    ],
    ids=["fails once", "fails twice", "refuses", "is away"],
)
async def test_a_failure_is_shared_and_tried_again_once(
    outcomes: tuple[Made | GatewayError, ...], calls: int, error: str | None
) -> None:
    """For a thousand there is one more attempt, not 999; none where it would not help."""
    table, generation = Flights(), Generation(*outcomes)
    tasks = [asyncio.ensure_future(whole(table, generation)) for _ in range(1_000)]
    await generation.begun.wait()
    generation.go.set()

    ends = await ends_of(*tasks)

    assert generation.calls == calls
    assert {str(end) if isinstance(end, GatewayError) else None for end in ends} == {error}


@pytest.mark.parametrize(("others", "pieces"), [(0, ()), (5, ("one",))], ids=["alone", "begun"])
async def test_a_failure_is_not_tried_again_for_one_alone_nor_when_it_has_begun(
    others: int, pieces: tuple[str, ...]
) -> None:
    """One alone hears of it as if nothing were shared; what has been passed on cannot be taken back."""
    table, generation = Flights(), Generation(FAULT, made(), pieces=pieces)
    tasks = [asyncio.ensure_future(streamed(table, generation, [])) for _ in range(1 + others)]
    await generation.begun.wait()
    generation.go.set()

    ends = await ends_of(*tasks)

    assert generation.calls == 1
    assert {str(end) for end in ends} == {"garbage"}


async def test_who_waits_longer_for_a_load_goes_on_waiting() -> None:
    """The first has had enough of a load and is told so; the second is not, and is answered when it is done."""
    now = time.monotonic()
    table, generation = Flights(), Generation(EngineUnavailable("loading", retry_after=1), made())
    first = asyncio.ensure_future(whole(table, generation, until=now + 10, wait=10.0))
    later = asyncio.ensure_future(whole(table, generation, until=now + 30, wait=30.0))
    await generation.begun.wait()
    generation.go.set()

    with pytest.raises(EngineUnavailable, match="loading"):
        await first
    assert await later == made()
    assert generation.waits[0] == 10
    assert generation.waits[1] == pytest.approx(30, abs=5)


async def test_who_waits_less_for_a_load_does_not_wait_with_the_others() -> None:
    """Unless nobody waits any more, because it is loaded."""
    now = time.monotonic()
    table, generation = Flights(), Generation()
    tasks = [asyncio.ensure_future(whole(table, generation, until=now + wait, wait=wait)) for wait in (30.0, 0.0)]
    await until(lambda: generation.calls == 2)
    generation.go.set()
    await asyncio.gather(*tasks)

    assert generation.waits == [30, 0]


async def test_what_is_too_long_to_be_kept_is_made_at_the_pace_of_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is forgotten once it has been read, nobody new comes aboard, and no piece is lost."""
    monkeypatch.setattr(flights, "MAX_KEPT", 100_000)
    words = tuple(str(number) * 2_000 for number in range(1_000, 1_500))
    table, generation = Flights(), Generation(pieces=words)
    heard: list[str] = []
    held = asyncio.Event()

    async def reads_slowly() -> None:
        async with table.aboard("k", generation, wait=None, until=EVER) as passage:
            async for chunk in passage.pieces():
                if len(heard) == 20:
                    await held.wait()
                heard.extend(choice.delta.content or "" for choice in chunk.choices)
                assert sum(map(weight, passage.flight._pieces)) < 110_000

    task = asyncio.ensure_future(reads_slowly())
    await until(lambda: "k" in table and not table._flights["k"].is_open)
    other = asyncio.ensure_future(streamed(table, generation, []))
    await until(lambda: generation.calls == 2)
    held.set()
    generation.go.set()
    await asyncio.gather(task, other)

    assert tuple(heard) == words


async def test_a_reader_who_stalls_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is too long to be kept for it, the other is given every piece meanwhile; it is told when it goes on."""
    monkeypatch.setattr(flights, "MAX_KEPT", 100_000)
    words = tuple(str(number) * 2_000 for number in range(1_000, 1_500))
    table, generation = Flights(), Generation(pieces=words)
    quick: list[str] = []
    held = asyncio.Event()

    async def stalls() -> None:
        async with table.aboard("k", generation, wait=None, until=EVER) as passage:
            async for _ in passage.pieces():
                await held.wait()

    stalled, other = asyncio.ensure_future(stalls()), asyncio.ensure_future(streamed(table, generation, quick))
    generation.go.set()
    async with asyncio.timeout(20):
        assert tuple(await other) == words
    held.set()

    with pytest.raises(EngineUnavailable, match="too long to be kept"):
        await stalled


@pytest.mark.parametrize("comes", ["with it", "while it is held up"])
async def test_a_reader_who_stalls_does_not_hold_up_who_wants_it_whole(
    monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """Whenever that one came aboard, it has the answer; the reader is told when it goes on."""
    monkeypatch.setattr(flights, "MAX_KEPT", 100_000)
    words = tuple(str(number) * 2_000 for number in range(1_000, 1_500))
    table, generation = Flights(), Generation(pieces=words)
    generation.go.set()
    held = asyncio.Event()

    async def stalls() -> None:
        async with table.aboard("k", generation, wait=None, until=EVER) as passage:
            async for _ in passage.pieces():
                await held.wait()

    stalled = asyncio.ensure_future(stalls())
    if comes != "with it":
        await until(lambda: "k" in table and table._flights["k"]._is_paced)
    async with asyncio.timeout(20):
        assert await whole(table, generation) == made()
    held.set()

    assert generation.calls == 1
    with pytest.raises(EngineUnavailable, match="too long to be kept"):
        await stalled


async def test_a_reader_a_little_slower_than_another_is_given_every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is not further behind than what is kept."""
    monkeypatch.setattr(flights, "MAX_KEPT", 100_000)
    words = tuple(str(number) * 2_000 for number in range(1_000, 1_200))
    table, generation = Flights(), Generation(pieces=words)
    heard: dict[int, list[str]] = {0: [], 1: []}
    behind = []

    async def reads(turns: int) -> None:
        """With so many turns of the loop for each of the first seven pieces."""
        async with table.aboard("k", generation, wait=None, until=EVER) as passage:
            async for chunk in passage.pieces():
                heard[turns] += [choice.delta.content or "" for choice in chunk.choices]
                behind.append(len(heard[0]) - len(heard[1]))
                for _ in range(1 + turns if len(heard[turns]) < 7 else 1):
                    await asyncio.sleep(0)

    generation.go.set()
    await asyncio.gather(reads(0), reads(1))

    assert tuple(heard[0]) == tuple(heard[1]) == words
    assert max(behind) > 5


def test_everything_in_a_piece_has_its_weight() -> None:
    """Its words, and what is much more: how likely each was, and the arguments of tools."""
    tops = [TopLogprob(f" word{number}", -1.25, [*b" word"]) for number in range(20)]
    likely = Logprobs(content=[TokenLogprob(" cat", -0.5, [*b" cat"], tops)])
    call = ToolCallDelta(index=0, function=FunctionDelta(arguments="x" * 10_000))
    weights = {
        "a cat": weight(piece("a cat")),
        "words": weight(piece("é" * 10_000)),
        "emoji": weight(piece("😀" * 10_000)),
        "logprobs": weight(with_choice(delta=Delta(content=" cat"), logprobs=likely)),
        "calls": weight(with_choice(delta=Delta(tool_calls=[call]))),
        "refusal": weight(with_choice(delta=Delta(refusal="x" * 10_000))),
    }

    assert 500 < weights["a cat"] < 1_000
    assert weights["words"] > 10_000
    assert weights["emoji"] > 40_000
    assert 5_000 < weights["logprobs"] < 10_000  # tracemalloc says 6 KB
    assert weights["calls"] > 10_000
    assert weights["refusal"] > 10_000


def with_choice(**fields: Any) -> Chunk:
    """A piece of one choice with those fields."""
    return Chunk(id="x", created=1, model="m", choices=[ChunkChoice(index=0, **fields)])


async def test_readers_who_wait_do_not_wake_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long answer has nothing new, everybody sleeps."""
    monkeypatch.setattr(flights, "MAX_KEPT", 1)
    table, generation = Flights(), Generation(pieces=("one", "two"))
    heard: list[list[str]] = [[], [], []]
    tasks = [asyncio.ensure_future(streamed(table, generation, each)) for each in heard]
    await until(lambda: all(len(each) == 2 for each in heard))
    woken, tell = 0, Flight._tell

    def counted(flight: Flight) -> None:
        nonlocal woken
        woken += 1
        tell(flight)

    monkeypatch.setattr(Flight, "_tell", counted)
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert woken < 10

    generation.go.set()
    assert await ends_of(*tasks) == [["one", "two"]] * 3


async def test_nothing_is_left_of_flights_that_have_landed() -> None:
    """A thousand of them leave neither tasks nor entries behind."""
    table, generation = Flights(), Generation()
    generation.go.set()
    for number in range(1_000):
        await whole(table, generation, str(number))
    gc.collect()

    assert len(asyncio.all_tasks()) == 1
    assert len([each for each in gc.get_objects() if type(each) is Flight]) < 10  # some are other tests'
