"""`python -m engines.blip`, through its socket: what a client of the engine sees."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai.lib._parsing._completions import type_to_response_format_param
from pydantic import BaseModel, Field

from engines.batcher import RunFailed
from engines.blip.__main__ import load, main, parse
from engines.blip.request import NO_PICTURE
from gateway import wire
from tests.engines.blip import tiny

CHAT = "/v1/chat/completions"


def picture(seed: int) -> dict[str, Any]:
    """A content part with one of the tiny checkpoint's pictures."""
    file = io.BytesIO()
    tiny.picture(seed).save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def body(number: int = 5, /, **fields: Any) -> dict[str, Any]:
    """A request for one picture's caption."""
    turn = {"role": "user", "content": [{"type": "text", "text": "Describe it."}, picture(number)]}
    return {"model": "tiny", "messages": [turn], **fields}


@pytest.fixture(scope="module")
def place(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an engine that runs as a process of its own, and ends by itself when its stdin closes."""
    path = tmp_path_factory.mktemp("engine") / "s"
    child = start(["--source", str(checkpoint), "--model", "tiny", "--uds", str(path), "--dtype", "float32"])
    assert child.stderr is not None
    assert any("ready: tiny" in line for line in child.stderr)
    yield path
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=30) == 0
    child.stderr.close()
    assert not path.exists()


def start(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    """Start an engine; its stdin is the pipe that keeps it alive."""
    return subprocess.Popen(
        [sys.executable, "-m", "engines.blip", "--exit-on-stdin-eof", *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def ask(place: Path, asked: dict[str, Any]) -> tuple[int, Any]:
    """Ask for a completion; the status and the answer, a stream's as the list of its events."""
    async with session(place) as client, client.post(CHAT, json=asked) as response:
        text = await response.text()
        if response.content_type == "text/event-stream":
            return response.status, [json.loads(line[6:]) for line in text.split("\n\n")[:-2]]
        return response.status, json.loads(text)


def session(place: Path) -> aiohttp.ClientSession:
    """A client of the engine."""
    return aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(place)))


async def caption(place: Path, asked: dict[str, Any]) -> str:
    """The first choice's words."""
    status, answer = await ask(place, asked)
    assert status == 200, answer
    content = answer["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


async def test_a_ready_engine_says_what_it_is(place: Path) -> None:
    """Health names the device and the type that were chosen."""
    async with session(place) as client, client.get("/health") as response:
        assert response.status == 200
        assert await response.json() == {"status": "ready", "device": "cpu", "dtype": "float32", "max_model_len": 48}


async def test_a_caption_with_its_usage(place: Path) -> None:
    """Greedy words; usage counts the picture's tokens, the start token and what was made."""
    status, answer = await ask(place, body(3))
    (choice,) = answer["choices"]
    assert status == 200
    assert choice["message"]["content"] == "an red"
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (18, 3, 21)
    assert usage["prompt_tokens_details"]["image_tokens"] == 17


async def test_the_same_request_gives_the_same_words_alone_and_in_company(place: Path) -> None:
    """Requests that share batches do not hear of one another."""
    alone = [await caption(place, body(seed)) for seed in range(8)]
    assert await asyncio.gather(*(caption(place, body(seed)) for seed in range(8))) == alone
    assert len(set(alone)) >= 6


async def test_a_stream_says_what_the_whole_answer_says(place: Path) -> None:
    """Word by word, with the same end and the same usage."""
    _, whole = await ask(place, body(max_tokens=9))
    _, chunks = await ask(place, body(max_tokens=9, stream=True, stream_options={"include_usage": True}))
    deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    assert len([delta for delta in deltas if delta]) > 5
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == whole["usage"]


async def test_the_limit_ends_a_caption(place: Path) -> None:
    """With "length", after so many tokens."""
    _, answer = await ask(place, body(2, max_completion_tokens=4))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4


async def test_the_default_limit_ends_within_the_positions(place: Path) -> None:
    """Fifty tokens, or what the checkpoint has room for after its prompt."""
    _, answer = await ask(place, body(2))
    assert answer["usage"]["completion_tokens"] == 47


async def test_choices_are_sampled_by_the_seed(place: Path) -> None:
    """Several choices differ, and are the same again with the same seed."""
    asked = body(n=3, temperature=1.0, seed=4, max_tokens=8)
    first, second = [(await ask(place, asked))[1]["choices"] for _ in range(2)]
    words = [choice["message"]["content"] for choice in first]
    assert [choice["message"]["content"] for choice in second] == words
    assert len(set(words)) == 3
    assert [choice["index"] for choice in first] == [0, 1, 2]
    assert await caption(place, body(temperature=1.0, seed=5, max_tokens=8)) == words[1]


async def test_a_stop_sequence_ends_a_caption(place: Path) -> None:
    """Before itself, with "stop", whole and streamed."""
    words = await caption(place, body(max_tokens=9))
    last = words.split()[4]
    before = words[: words.index(last)].rstrip()
    _, answer = await ask(place, body(max_tokens=9, stop=[last]))
    assert answer["choices"][0]["message"]["content"] == before
    assert answer["choices"][0]["finish_reason"] == "stop"
    _, chunks = await ask(place, body(max_tokens=9, stop=last, stream=True))
    assert "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]) == before


async def test_a_prefix_is_echoed_and_a_prefill_is_not(place: Path) -> None:
    """Both make the same caption; the answer holds all of it, or the new words."""
    echoed = await caption(place, body(max_tokens=6, altgate={"prefix": "A Photo of"}))
    prefill = body(max_tokens=6)
    prefill["messages"].append({"role": "assistant", "content": "a photo of"})
    _, answer = await ask(place, prefill)
    assert echoed == f"A Photo of {answer['choices'][0]['message']['content']}"
    assert answer["usage"]["prompt_tokens"] == 17 + 4


async def test_a_prefix_without_an_end_is_refused(place: Path) -> None:
    """A beginning that leaves no room for a caption is named."""
    status, answer = await ask(place, body(altgate={"prefix": "a cat " * 40}))
    assert (status, answer["error"]["param"]) == (400, "altgate.prefix")
    assert answer["error"]["code"] == "context_length_exceeded"


class AltText(BaseModel):
    alt_text: str = Field(max_length=12)
    tags: list[str] = []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_is_filled(place: Path, stream: bool) -> None:
    """What the SDK's `parse` sends comes back as pure JSON, also as a stream."""
    asked = body(response_format=type_to_response_format_param(AltText), stream=stream)
    status, answer = await ask(place, asked)
    assert status == 200
    parts = [choice for chunk in answer for choice in chunk["choices"]] if stream else answer["choices"]
    text = "".join((part["delta"] if stream else part["message"]).get("content", "") for part in parts)
    parsed = AltText.model_validate_json(text)
    assert parsed.alt_text
    assert parsed.tags == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_without_a_picture_is_answered(place: Path, stream: bool) -> None:
    """With one fixed sentence, whatever else it asks for, so that a client's set-up check succeeds."""
    asked = body(messages=[{"role": "user", "content": "hello"}], stream=stream, frequency_penalty=1, n=2)
    status, answer = await ask(place, asked)
    assert status == 200
    parts = [choice for chunk in answer for choice in chunk["choices"]] if stream else answer["choices"]
    said: dict[int, str] = {}
    for part in parts:
        words = (part["delta"] if stream else part["message"]).get("content", "")
        said[part["index"]] = said.get(part["index"], "") + words
    assert said == {0: NO_PICTURE, 1: NO_PICTURE}


async def test_a_structured_request_without_a_picture_is_a_refusal(place: Path) -> None:
    """`parse` gives a refusal rather than an error of validation."""
    asked = body(messages=[{"role": "user", "content": "hello"}], response_format={"type": "json_object"})
    _, answer = await ask(place, asked)
    message = answer["choices"][0]["message"]
    assert message["content"] == message["refusal"] == NO_PICTURE


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": [picture(1), picture(2)]}]}, None, "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format", None),
    ],
)
async def test_what_cannot_be_done_is_refused(
    place: Path, fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    """With 400, the field and a sentence."""
    status, answer = await ask(place, body(**fields))
    assert status == 400
    assert answer["error"]["param"] == (param or "messages[0].content[1].image_url.url")
    assert answer["error"]["code"] == (code or "invalid_json_schema")


async def test_an_address_is_not_fetched(place: Path) -> None:
    """Engines are given bytes."""
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/cat.png"}}
    status, answer = await ask(place, body(messages=[{"role": "user", "content": [part]}]))
    assert (status, answer["error"]["code"]) == (400, "invalid_image_url")


async def test_clients_that_leave_do_not_hold_the_engine_up(place: Path) -> None:
    """Their rows are dropped; who stays is served as ever."""
    expected = await caption(place, body())
    async with session(place) as client:
        for _ in range(3):
            async with client.post(CHAT, json=body(stream=True)) as response:
                await response.content.readany()
                response.close()
    assert await caption(place, body()) == expected


def test_a_failed_load_says_why_in_its_last_line(tmp_path: Path) -> None:
    """One sentence for a client, no path in it, and status 1; the socket is gone."""
    child = start(["--source", str(tmp_path / "nowhere"), "--model", "m", "--uds", str(tmp_path / "s")])
    with child:
        assert child.stderr is not None
        log = child.stderr.read()
    assert child.returncode == 1
    assert log.splitlines()[-1] == (
        "altgate: the folder set as `source` holds no checkpoint: there is no config.json in it; "
        "name the folder that has one"
    )
    assert not (tmp_path / "s").exists()


def test_a_socket_that_cannot_be_opened_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same last line, before anything is loaded."""
    assert main(["--source", "x", "--model", "m", "--uds", str(tmp_path / "no" / "s")]) == 1
    assert re.fullmatch(r"altgate: the engine cannot listen on its socket \(.*\)\n", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [[], ["--max-batch", "0"], ["--port", "1", "--uds", "s"], ["--dtype", "int4"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By argparse, with its usage."""
    with pytest.raises(SystemExit):
        parse(["--source", "x", "--model", "m", *arguments])
    assert "usage: python -m engines.blip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (MemoryError(), "there is not enough memory for the folder set as `source`"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not enough memory for"),
        (KeyError("weight"), "cannot be loaded (KeyError): its files do not fit together"),
    ],
)
def test_what_goes_wrong_with_the_weights_becomes_a_sentence(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, sentence: str
) -> None:
    """Whatever the libraries raise, the client reads what to do."""
    from engines.blip import model  # noqa: PLC0415 -- it needs torch
    from engines.loading import LoadError  # noqa: PLC0415

    def broken(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(model, "BlipModel", broken)
    phases: list[tuple[str, float]] = []
    with pytest.raises(LoadError) as told:
        load(parse(["--source", str(checkpoint), "--model", "m", "--port", "1"]), lambda *phase: phases.append(phase))
    assert sentence in str(told.value)
    assert [name for name, _ in phases] == ["importing", "weights"]


@pytest.mark.parametrize("broken", [True, False])
async def test_an_engine_whose_gpu_is_lost_ends(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """It answers what failed and is then told to stop, as it can do nothing more; after other failures it goes on."""
    from engines.blip import model  # noqa: PLC0415 -- it needs torch

    ended: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def fails(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    options = parse(["--source", str(checkpoint), "--model", "tiny", "--port", "1"])
    engine: Any = load(options, lambda *_: None)
    monkeypatch.setattr(engine._batcher, "_run", fails)
    monkeypatch.setattr(model.BlipModel, "is_broken", lambda _: broken)
    monkeypatch.setattr(os, "kill", lambda *told: loop.call_soon_threadsafe(ended.put_nowait, told))
    for _ in range(2):
        answer = await engine.answer(wire.decode_request(json.dumps(body()).encode()))
        with pytest.raises(RunFailed), contextlib.closing(answer):
            await anext(answer.pieces())
    await engine.close()
    await asyncio.sleep(0)
    assert [ended.get_nowait() for _ in range(ended.qsize())] == [(os.getpid(), signal.SIGTERM)] * (2 * broken)
