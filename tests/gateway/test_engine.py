"""The way to an engine and back, against a stand-in process that misbehaves on request."""

import asyncio
import base64
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway import wire
from gateway.engine import LocalEngine
from gateway.errors import (
    EngineFault,
    EngineTimeout,
    EngineUnavailable,
    GatewayError,
    InvalidRequest,
    Overloaded,
)
from gateway.process import State

ROOT = Path(__file__).parents[2]
PICTURE = b"the bytes of a picture"


def local_engine(folder: Path, *options: str, request_timeout: float = 30, cold_start_wait: float = 30) -> LocalEngine:
    """An engine whose process is the stand-in."""
    socket = str(folder / "e.sock")
    return LocalEngine(
        "demo",
        [sys.executable, "-m", "tests.stand_in", f"--uds={socket}", *options],
        socket,
        environ={**os.environ, "PYTHONPATH": str(ROOT)},
        start_timeout=30,
        cold_start_wait=cold_start_wait,
        request_timeout=request_timeout,
    )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    """The stand-in, with its marker files in the test's folder."""
    options = [f"--{marker}={tmp_path / marker}" for marker in ("begun", "left", "go")]
    async with local_engine(tmp_path, *options) as running:
        yield running


def request(command: str = "", *pictures: bytes) -> wire.ChatRequest:
    """A request with those pictures and that command to the stand-in."""
    parts: list[wire.Part] = [
        wire.PicturePart(wire.ImageURL(f"data:image/png;base64,{base64.b64encode(picture).decode()}"))
        for picture in pictures
    ]
    return wire.ChatRequest(model="demo", messages=[wire.Message("user", [*parts, wire.TextPart(command)])])


def streamed(command: str) -> wire.ChatRequest:
    """The same, streamed, with a picture."""
    return msgspec.structs.replace(request(command, PICTURE, b"another"), stream=True)


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
        ("overloaded", Overloaded, "Full."),
        ("die", EngineUnavailable, "went away"),
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


async def test_an_overloaded_engine_says_when_to_come_back(engine: LocalEngine) -> None:
    """Its Retry-After is passed on."""
    with pytest.raises(Overloaded) as caught:
        await engine.complete(request("overloaded"))

    assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    ("command", "error"), [("die midway", EngineUnavailable), ("error midway", EngineFault), ("die", EngineUnavailable)]
)
async def test_faults_in_a_stream_become_our_errors(
    engine: LocalEngine, command: str, error: type[GatewayError]
) -> None:
    """Whatever was streamed before, the end is an error and not a silence."""
    with pytest.raises(error) as caught:
        await words(engine.stream(streamed(command)))

    assert "secret" not in caught.value.message


async def test_after_its_death_the_next_request_is_served(engine: LocalEngine) -> None:
    """The process is started again and the request waits for it."""
    with pytest.raises(EngineUnavailable):
        await engine.complete(request("die"))

    answer = await engine.complete(request("", PICTURE))

    assert answer.choices[0].message.content == hashlib.sha256(PICTURE).hexdigest()


async def test_a_hanging_engine_meets_the_limit(tmp_path: Path) -> None:
    """A request never takes longer than it may."""
    async with local_engine(tmp_path, request_timeout=0.3) as engine:
        with pytest.raises(EngineTimeout):
            await engine.complete(request("hang"))


async def test_giving_up_reaches_the_engine(engine: LocalEngine, tmp_path: Path) -> None:
    """Who cancels a request ends the engine's work on it."""
    await engine.complete(request())
    work = asyncio.create_task(engine.complete(request("hang")))
    async with asyncio.timeout(10):
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)

    async with asyncio.timeout(10):
        while not (tmp_path / "left").exists():
            await asyncio.sleep(0.01)
    assert engine.status.state is State.READY


async def test_an_engine_that_loads_is_waited_for_and_then_told(tmp_path: Path) -> None:
    """A request waits as long as it may and then says how far the loading is."""
    async with local_engine(tmp_path, "--start=never ready", cold_start_wait=4) as engine:
        with pytest.raises(EngineUnavailable, match="40% done"):
            await engine.complete(request())

        assert (engine.status.state, engine.status.phase) == (State.STARTING, "weights")


async def test_an_engine_that_cannot_load_says_why(tmp_path: Path) -> None:
    """The reason is told to the client, and stands in the status."""
    async with local_engine(tmp_path, "--start=say why") as engine:
        with pytest.raises(EngineUnavailable, match="the weights are made of cheese"):
            await engine.complete(request())

        assert engine.status.reason == "the weights are made of cheese"
