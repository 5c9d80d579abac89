"""The way to an engine of this machine and back, against a stand-in process that misbehaves on request."""

import asyncio
import base64
import hashlib
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway import upstream, wire
from gateway.engine import Ask
from gateway.errors import (
    EngineFault,
    EngineTimeout,
    EngineUnavailable,
    GatewayError,
    InvalidRequest,
    Overloaded,
)
from gateway.fleet import Fleet
from gateway.life import State
from gateway.local import MOST_UNANSWERED, STALE_AFTER_SLEEP, LocalEngine
from gateway.process import nothing_missing
from gateway.upstream import MAX_ANSWER

ROOT = Path(__file__).parents[2]
PICTURE = b"the bytes of a picture"


def local_engine(
    fleet: Fleet,
    folder: Path,
    *options: str,
    name: str = "demo",
    request_timeout: float = 30,
    cold_start_wait: float = 30,
    sleeps: bool = False,
    obstacle: Callable[[], str | None] = nothing_missing,
) -> LocalEngine:
    """An engine of a fleet whose process is the stand-in."""
    socket = str(folder / f"{name}.sock")
    return LocalEngine(
        name,
        [sys.executable, "-m", "tests.stand_in", f"--uds={socket}", f"--name={name}", *options],
        socket,
        fleet=fleet,
        environ={**os.environ, "PYTHONPATH": str(ROOT)},
        start_timeout=30,
        cold_start_wait=cold_start_wait,
        request_timeout=request_timeout,
        sleeps=sleeps,
        obstacle=obstacle,
    )


@asynccontextmanager
async def alone(
    folder: Path, *options: str, idle_timeout: float | None = None, request_timeout: float = 30, sleeps: bool = False
) -> AsyncIterator[LocalEngine]:
    """The stand-in, alone in its fleet, with its marker files and its journal in that folder."""
    markers = [f"--{marker}={folder / marker}" for marker in ("begun", "left", "go", "journal")]
    async with (
        Fleet(max_loaded=1, idle_timeout=idle_timeout) as fleet,
        local_engine(fleet, folder, *markers, *options, request_timeout=request_timeout, sleeps=sleeps) as engine,
    ):
        yield engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    """The stand-in, behaving well until it is told otherwise."""
    async with alone(tmp_path) as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def journal(folder: Path) -> list[str]:
    """The lines that stand-ins have written."""
    return (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else []


def request(command: str = "", *pictures: bytes, stream: bool | None = None) -> Ask:
    """Asks the stand-in to do as the command says, with those pictures."""
    parts: list[wire.Part] = [
        wire.PicturePart(wire.ImageURL(f"data:image/png;base64,{base64.b64encode(picture).decode()}"))
        for picture in pictures
    ]
    messages = [wire.Message("user", [*parts, wire.TextPart(command)])]

    async def ask() -> wire.ChatRequest:
        return wire.ChatRequest(model="demo", messages=messages, stream=stream)

    return ask


def streamed(command: str) -> Ask:
    """The same, streamed, with two pictures."""
    return request(command, PICTURE, b"another", stream=True)


async def words(chunks: AsyncIterator[wire.Chunk]) -> list[str]:
    """The content of each chunk that has one."""
    return [
        choice.delta.content
        async for chunk in chunks
        for choice in chunk.choices
        if isinstance(choice.delta.content, str)
    ]


async def test_pictures_arrive_whole_and_in_order(engine: LocalEngine) -> None:
    """The engine gets the very bytes, however large, and its words and usage come back."""
    large = os.urandom(3_000_000)

    answer = await engine.complete(request("", PICTURE, large))

    digests = [hashlib.sha256(picture).hexdigest() for picture in (PICTURE, large)]
    assert answer.choices[0].message.content == " ".join(digests)
    assert answer.usage.prompt_tokens_details == wire.PromptTokensDetails(image_tokens=2)
    assert (engine.status.state, engine.status.device) == (State.READY, "cpu")


async def test_chunks_come_as_they_are_made(engine: LocalEngine, tmp_path: Path) -> None:
    """The first word is here before the engine has made the second."""
    chunks = engine.stream(streamed("slow"))
    first = [await anext(chunks), await anext(chunks)]
    (tmp_path / "go").touch()
    rest = [chunk async for chunk in chunks]

    assert first[1].choices[0].delta.content == hashlib.sha256(PICTURE).hexdigest()
    assert [choice.finish_reason for chunk in rest for choice in chunk.choices] == [None, "stop"]
    assert isinstance(rest[-1].usage, wire.Usage)


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("garbage", EngineFault, "no usable answer"),
        ("broken", EngineFault, "failed on this request"),
        ("refuse", InvalidRequest, "Not so."),
        ("overloaded", Overloaded, "has too much to do"),
        ("unavailable", Overloaded, "has too much to do"),
        ("huge", EngineFault, "larger than an answer can be"),
        ("die", EngineUnavailable, "went away"),
        ("dead", EngineUnavailable, "went away"),
    ],
)
async def test_faults_become_our_errors(
    engine: LocalEngine, command: str, error: type[GatewayError], message: str
) -> None:
    """What the client can mend is passed on word for word; of the rest nothing of the engine's own words leaks."""
    with pytest.raises(error, match=message) as caught:
        await engine.complete(request(command))

    assert "secret" not in caught.value.message


async def test_a_refusal_keeps_its_parameter_and_code(engine: LocalEngine) -> None:
    """The client learns which field the engine does not honour."""
    with pytest.raises(InvalidRequest) as caught:
        await engine.complete(request("refuse"))

    assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")


@pytest.mark.parametrize(("command", "seconds"), [("overloaded", 7), ("unavailable", 9)])
async def test_an_overloaded_engine_says_when_to_come_back(
    engine: LocalEngine, caplog: pytest.LogCaptureFixture, command: str, seconds: float
) -> None:
    """Its Retry-After is passed on, and a full queue is no error that the operator has to hear of."""
    with pytest.raises(Overloaded) as caught:
        await engine.complete(request(command))

    assert caught.value.retry_after == seconds
    assert not [record for record in caplog.records if record.name == "gateway.upstream"]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("die midway", EngineUnavailable),
        ("error midway", EngineFault),
        ("dead midway", EngineUnavailable),
        ("die", EngineUnavailable),
        ("full midway", Overloaded),
        ("unavailable", Overloaded),
        ("ending", EngineUnavailable),
        ("huge", EngineFault),
    ],
)
async def test_faults_in_a_stream_become_our_errors(
    engine: LocalEngine, command: str, error: type[GatewayError]
) -> None:
    """Whatever was streamed before, the end is an error and not a silence."""
    with pytest.raises(error) as caught:
        await words(engine.stream(streamed(command)))

    assert "secret" not in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_an_end_takes_bounded_memory(engine: LocalEngine, stream: bool) -> None:
    """It is refused when it is larger than an answer can be, not when our memory is full."""
    await engine.complete(request())
    tracemalloc.start()
    try:
        with pytest.raises(EngineFault):
            await (words(engine.stream(streamed("huge"))) if stream else engine.complete(request("huge")))

        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_ANSWER
    finally:
        tracemalloc.stop()


async def test_no_request_meets_the_end_of_another_ones_connection(engine: LocalEngine) -> None:
    """An engine in trouble may close its connection when it has answered; no other request runs into that."""

    async def connection() -> str | None:
        return (await engine.complete(request("connection"))).choices[0].message.content

    assert len({await connection() for _ in range(3)}) == 3


@pytest.mark.parametrize("command", ["garbage", "die midway", "hang"])
async def test_a_request_that_failed_leaves_no_trace(tmp_path: Path, command: str) -> None:
    """Whatever became of it, its engine counts as idle afterwards: it is unloaded in time."""
    async with alone(tmp_path, idle_timeout=0.1, request_timeout=0.5) as engine:
        with pytest.raises(GatewayError):
            await words(engine.stream(streamed(command)))

        await until(lambda: engine.status.state is State.STOPPED)


async def test_after_its_death_the_next_request_is_served(engine: LocalEngine) -> None:
    """The process is started again and the request waits for it."""
    with pytest.raises(EngineUnavailable):
        await engine.complete(request("die"))

    answer = await engine.complete(request("", PICTURE))

    assert answer.choices[0].message.content == hashlib.sha256(PICTURE).hexdigest()


async def test_a_hanging_engine_meets_the_limit(tmp_path: Path) -> None:
    """A request never takes longer than it may."""
    async with alone(tmp_path, request_timeout=0.3) as engine:
        with pytest.raises(EngineTimeout):
            await engine.complete(request("hang"))


async def test_an_engine_that_leaves_requests_unanswered_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it says that it is well; one that only takes long for some, and answers others meanwhile, is kept."""
    async with alone(tmp_path, request_timeout=0.3) as engine:
        await engine.complete(request())
        pid = engine.process.pid
        for _ in range(MOST_UNANSWERED):
            hanging = asyncio.gather(engine.complete(request("hang")), return_exceptions=True)
            await engine.complete(request())
            assert isinstance((await hanging)[0], EngineTimeout)
        assert engine.process.pid == pid
        for _ in range(MOST_UNANSWERED):
            with pytest.raises(EngineTimeout):
                await words(engine.stream(streamed("hang")))

        await until(lambda: engine.process.pid not in (pid, None))
        await engine.complete(request())
    assert "left 3 requests in a row without an answer" in caplog.text


async def test_a_stream_that_begun_before_its_engine_hung_hides_nothing(tmp_path: Path) -> None:
    """What was heard of it then says nothing of later; one that goes on shows that the engine works."""
    async with alone(tmp_path, f"--go={tmp_path / 'never'}", request_timeout=0.5) as engine:
        await engine.complete(request())
        pid = engine.process.pid
        begun = engine.stream(streamed("slow"))
        for _ in range(2):  # its head and its first word, all that comes of it
            await anext(begun)
        hanging = [engine.complete(request("hang")) for _ in range(MOST_UNANSWERED)]
        outcomes = await asyncio.gather(words(begun), *hanging, return_exceptions=True)

        assert {type(outcome) for outcome in outcomes} == {EngineTimeout}
        await until(lambda: engine.process.pid not in (pid, None))


async def test_an_engine_that_died_under_its_server_is_replaced(engine: LocalEngine) -> None:
    """Who was told to come back is served by another process."""
    await engine.complete(request())
    pid = engine.process.pid
    with pytest.raises(EngineUnavailable) as caught:
        await engine.complete(request("dead"))

    answer = await engine.complete(request("", PICTURE))

    assert 1 <= (caught.value.retry_after or 0) <= 60
    assert answer.choices[0].message.content == hashlib.sha256(PICTURE).hexdigest()
    assert engine.process.pid != pid


async def test_a_stream_has_its_limit_however_slowly_it_is_read(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is free when the limit is over, though all that its client has not read has arrived."""
    chunks = engine.stream(streamed(""))
    await anext(chunks)
    later = time.monotonic() + 31
    monkeypatch.setattr(upstream, "time", SimpleNamespace(monotonic=lambda: later))

    with pytest.raises(EngineTimeout, match="30 seconds"):
        await anext(chunks)


async def test_a_request_is_built_when_its_engine_is_there(tmp_path: Path) -> None:
    """And not before: those who wait do not fill the memory with pictures."""
    built: list[State] = []
    async with alone(tmp_path, "--load=0.5") as engine:

        async def ask() -> wire.ChatRequest:
            built.append(engine.status.state)
            return await request()()

        with pytest.raises(EngineUnavailable):
            await engine.complete(ask, wait=0)
        assert built == []
        await engine.complete(ask)

    assert built == [State.READY]


async def test_a_preloaded_engine_that_did_not_start_is_tried_again(tmp_path: Path) -> None:
    """By itself, once its back-off is over; wanted twice, by its name and its alias, it is loaded once."""
    obstacles: list[str | None] = ["no memory is free"]
    others = asyncio.all_tasks()
    async with (
        Fleet(max_loaded=1) as fleet,
        local_engine(fleet, tmp_path, obstacle=lambda: obstacles[-1]) as engine,
    ):
        engine.want()
        engine.want()
        await until(lambda: engine.status.state is State.FAILED)
        obstacles.append(None)

        await until(lambda: engine.status.can_serve)
    assert engine.process.failed_starts == 1
    assert asyncio.all_tasks() == others


async def test_giving_up_reaches_the_engine(engine: LocalEngine, tmp_path: Path) -> None:
    """Who cancels a request ends the engine's work on it."""
    await engine.complete(request())
    work = asyncio.create_task(engine.complete(request("hang")))
    await until((tmp_path / "begun").exists)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    await until((tmp_path / "left").exists)
    assert engine.status.state is State.READY


async def test_a_stream_that_is_closed_early_leaves_no_trace(tmp_path: Path) -> None:
    """Who stops reading ends the engine's work, and the engine is idle again."""
    async with alone(tmp_path, idle_timeout=0.1) as engine:
        chunks = engine.stream(streamed("slow"))
        await anext(chunks)
        await chunks.aclose()

        await until(lambda: engine.status.state is State.STOPPED)


async def test_an_engine_that_loads_is_waited_for(tmp_path: Path) -> None:
    """A slow start is a slow answer, not an error."""
    async with alone(tmp_path, "--load=0.5") as engine:
        answer = await engine.complete(request("", PICTURE))

    assert answer.choices[0].message.content == hashlib.sha256(PICTURE).hexdigest()


@pytest.mark.parametrize(
    ("start", "phase", "done"), [("never ready", "weights", "40% done"), ("download", "download", "35% done")]
)
async def test_who_has_waited_long_enough_is_told_how_far_it_is(
    tmp_path: Path, start: str, phase: str, done: str
) -> None:
    """A request waits as long as it may; the start goes on, and the status says the same."""
    async with alone(tmp_path, f"--start={start}") as engine:
        engine.want()
        await until(lambda: engine.status.phase is not None)
        with pytest.raises(EngineUnavailable, match=done) as caught:
            await engine.complete(request(), wait=0)

        assert (engine.status.state, engine.status.phase, engine.status.can_serve) == (State.STARTING, phase, False)
        assert 1 <= (caught.value.retry_after or 0) <= 60


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("say why", "the weights are made of cheese"),
        ("say nothing", "its engine ended with exit code 5 while it started; the gateway's log has its last lines"),
        ("killed", "its engine was killed while it started, as happens when memory runs out; free some or use less"),
    ],
)
async def test_an_engine_that_cannot_load_says_why(tmp_path: Path, start: str, reason: str) -> None:
    """The reason is told to all who wait and to who comes after them, and stands in the status."""
    async with alone(tmp_path, f"--start={start}") as engine:
        told = await asyncio.gather(*(engine.complete(request()) for _ in range(5)), return_exceptions=True)
        with pytest.raises(EngineUnavailable, match=reason):
            await engine.complete(request())

        assert {str(error) for error in told} == {f"The model 'demo' cannot be served: {reason}."}
        assert (engine.status.reason, engine.status.can_serve) == (reason, False)


async def test_it_can_serve_whether_it_is_loaded_or_would_be_again(tmp_path: Path) -> None:
    """Before its first load it cannot; from then on it can, also when it is unloaded after a time without work."""
    async with alone(tmp_path, idle_timeout=0.1) as engine:
        assert not engine.status.can_serve
        engine.want()
        await until(lambda: engine.status.can_serve)
        await until(lambda: engine.status.state is State.STOPPED)

        assert engine.status.can_serve


async def test_what_cannot_be_started_any_more_cannot_serve(tmp_path: Path) -> None:
    """After a failed start it says so, though it was loaded before; the client is told the obstacle."""
    obstacles: list[str | None] = [None]
    async with (
        Fleet(max_loaded=1, idle_timeout=0.1) as fleet,
        local_engine(fleet, tmp_path, obstacle=lambda: obstacles[-1]) as engine,
    ):
        await engine.complete(request())
        obstacles.append("needs a GPU: run it on a machine that has one")
        await until(lambda: engine.status.state is State.STOPPED)
        with pytest.raises(EngineUnavailable, match="'demo' cannot be served: needs a GPU: run it on"):
            await engine.complete(request())

        assert (engine.status.state, engine.status.can_serve) == (State.FAILED, False)


async def test_an_idle_engine_sleeps_and_forgets_before_it_is_asked_again(tmp_path: Path) -> None:
    """The same process, woken; what it kept of earlier requests is thrown away before a request gets through."""
    async with alone(tmp_path, idle_timeout=0.1, sleeps=True) as engine:
        await engine.complete(request())
        pid = engine.process.pid
        await until(lambda: engine.status.state is State.ASLEEP)
        assert engine.status.can_serve

        answers = await asyncio.gather(*(engine.complete(request("", PICTURE)) for _ in range(20)))

        assert {answer.choices[0].message.content for answer in answers} == {hashlib.sha256(PICTURE).hexdigest()}
        assert engine.process.pid == pid
        assert journal(tmp_path)[:5] == [f"demo {path}" for path in ("/sleep?level=1", "/wake_up", *STALE_AFTER_SLEEP)]


async def test_a_sleeper_that_dies_is_started_cold(tmp_path: Path) -> None:
    """Nobody wants it when it dies, so it is not started before somebody asks."""
    async with alone(tmp_path, idle_timeout=0.1, sleeps=True) as engine:
        await engine.complete(request())
        await until(lambda: engine.status.state is State.ASLEEP)
        os.kill(engine.process.pid or 0, signal.SIGKILL)
        await until(lambda: engine.status.state is State.STOPPED)

        await engine.complete(request())

        assert "demo /wake_up" not in journal(tmp_path)


@pytest.mark.parametrize("misbehaves", ["refuses", "hangs"])
@pytest.mark.parametrize("path", ["/sleep", "/wake_up", "/reset_mm_cache"])
async def test_one_that_does_not_sleep_or_wake_as_it_should_is_started_cold(
    tmp_path: Path, path: str, misbehaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed, for nobody knows what it has kept, and the request that it was woken for is served all the same."""
    monkeypatch.setattr("gateway.process.NAP_PATIENCE", 0.3)
    async with alone(tmp_path, f"--{misbehaves}={path}", idle_timeout=0.1, sleeps=True) as engine:
        await engine.complete(request())
        pid = engine.process.pid
        asleep = State.STOPPED if path == "/sleep" else State.ASLEEP
        await until(lambda: engine.status.state is asleep)

        answer = await engine.complete(request("", PICTURE))

        assert answer.choices[0].message.content == hashlib.sha256(PICTURE).hexdigest()
        assert engine.process.pid != pid
