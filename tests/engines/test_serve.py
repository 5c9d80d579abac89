"""The HTTP face of an engine, over a real Unix socket, with an engine that a test holds in its hand."""

import asyncio
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from engines.batcher import Closed, QueueFull, RunFailed
from engines.listener import Listener
from engines.loading import LoadError
from engines.serve import MAX_BODY, Health, Piece, Served, run
from gateway import wire

CHAT = "/v1/chat/completions"


def body(**fields: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


class FakeAnswer:
    """Gives the pieces it was made with; an exception among them is raised, an event waited for."""

    def __init__(self, pieces: list[Any], choices: int = 1) -> None:
        self.choices = choices
        self.usage = wire.Usage(3, 2, 5)
        self.closed = asyncio.Event()
        self._pieces = pieces

    async def pieces(self) -> AsyncIterator[Piece]:
        for piece in self._pieces:
            match piece:
                case Exception():
                    raise piece
                case asyncio.Event():
                    await piece.wait()
                case _:
                    yield piece

    def close(self) -> None:
        self.closed.set()


class FakeEngine:
    """Answers what it is told to, or raises it."""

    health = Health("ready", device="cpu", dtype="bfloat16", max_model_len=48)

    def __init__(self, answer: FakeAnswer | Exception) -> None:
        self.answered = answer
        self.begun = asyncio.Event()

    async def answer(self, request: wire.ChatRequest) -> FakeAnswer:
        assert request.model == "m"
        self.begun.set()
        if isinstance(self.answered, Exception):
            raise self.answered
        return self.answered

    async def close(self) -> None:
        pass


@asynccontextmanager
async def serving(tmp_path: Path, engine: FakeEngine | None) -> AsyncIterator[aiohttp.ClientSession]:
    """The routes on a Unix socket, and a client of it."""
    served = Served("m", engine=engine)
    listener = Listener(uds=tmp_path / "s", host="", port=0)
    runner = web.AppRunner(served.application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener.socket).start()
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    try:
        async with aiohttp.ClientSession("http://engine", connector=connector) as client:
            yield client
    finally:
        await runner.cleanup()
        listener.close()


def events(text: str) -> list[Any]:
    """The events of a stream, `[DONE]` as it stands."""
    data = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


async def test_a_whole_answer(tmp_path: Path) -> None:
    """Pieces of all choices are put together, with usage and every field that clients read."""
    pieces = [Piece(0, "a"), Piece(1, "b"), Piece(0, " cat"), Piece(1, finish="length"), Piece(0, finish="stop")]
    engine = FakeEngine(FakeAnswer(pieces, choices=2))
    async with serving(tmp_path, engine) as client, client.post(CHAT, json=body()) as response:
        assert (response.status, response.content_type) == (200, "application/json")
        answer = await response.json()
    said = [(one["index"], one["message"]["content"], one["finish_reason"]) for one in answer["choices"]]
    assert said == [(0, "a cat", "stop"), (1, "b", "length")]
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "m"
    assert answer["usage"]["total_tokens"] == 5
    assert answer["choices"][0]["message"]["refusal"] is None


async def test_a_refusal_stands_beside_the_content(tmp_path: Path) -> None:
    """Whole and streamed, for clients that read either."""
    pieces = [Piece(0, "no", refusal="no"), Piece(0, finish="stop")]
    async with serving(tmp_path, FakeEngine(FakeAnswer(pieces))) as client:
        async with client.post(CHAT, json=body()) as response:
            message = (await response.json())["choices"][0]["message"]
        assert (message["content"], message["refusal"]) == ("no", "no")
        async with client.post(CHAT, json=body(stream=True)) as response:
            delta = events(await response.text())[1]["choices"][0]["delta"]
        assert delta == {"content": "no", "refusal": "no"}


async def test_a_stream_has_the_order_that_clients_rely_on(tmp_path: Path) -> None:
    """Roles in the order of the choices, words, one finish per choice, usage when asked for, [DONE]."""
    pieces = [Piece(1, "b"), Piece(0, "a", finish="stop"), Piece(1, finish="length")]
    engine = FakeEngine(FakeAnswer(pieces, choices=2))
    asked = body(stream=True, stream_options={"include_usage": True})
    async with serving(tmp_path, engine) as client, client.post(CHAT, json=asked) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        *chunks, done = events(await response.text())
    assert done == "[DONE]"
    changes = [(one["index"], one["delta"], one["finish_reason"]) for chunk in chunks for one in chunk["choices"]]
    assert changes == [
        (0, {"role": "assistant", "content": ""}, None),
        (1, {"role": "assistant", "content": ""}, None),
        (1, {"content": "b"}, None),
        (0, {"content": "a"}, None),
        (0, {}, "stop"),
        (1, {}, "length"),
    ]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 6
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 2)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


async def test_a_stream_has_no_usage_unless_asked(tmp_path: Path) -> None:
    """Without `include_usage` no chunk says anything of it."""
    engine = FakeEngine(FakeAnswer([Piece(0, "a", finish="stop")]))
    async with serving(tmp_path, engine) as client, client.post(CHAT, json=body(stream=True)) as response:
        *chunks, _ = events(await response.text())
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


async def test_pieces_are_streamed_as_they_are_made(tmp_path: Path) -> None:
    """A piece arrives while the next one is not made yet."""
    more = asyncio.Event()
    engine = FakeEngine(FakeAnswer([Piece(0, "early"), more, Piece(0, " late", finish="stop")]))
    async with serving(tmp_path, engine) as client, client.post(CHAT, json=body(stream=True)) as response:
        seen = b""
        while b"early" not in seen:
            seen += await response.content.readany()
        assert b"late" not in seen
        more.set()
        assert b"late" in await response.content.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_work(tmp_path: Path, stream: bool) -> None:
    """Streaming or not: when the connection closes, the answer is closed."""
    answer = FakeAnswer([Piece(0, "early"), asyncio.Event()])
    engine = FakeEngine(answer)
    async with serving(tmp_path, engine) as client:
        asking = asyncio.create_task(_read(client, body(stream=stream)))
        await engine.begun.wait()
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(answer.closed.wait(), 10)
    assert answer.closed.is_set()


async def _read(client: aiohttp.ClientSession, asked: dict[str, Any]) -> bytes:
    async with client.post(CHAT, json=asked) as response:
        return await response.read()


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (wire.Fault("bad", param="n", code="invalid_value"), 400, ("invalid_request_error", "invalid_value", "n")),
        (QueueFull(2.4), 429, ("requests", "rate_limit_exceeded", None)),
        (Closed(), 503, ("server_error", "engine_unavailable", None)),
        (RunFailed(), 500, ("server_error", "internal_error", None)),
        (RuntimeError("secret"), 500, ("server_error", "internal_error", None)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_is_told_in_the_envelope(
    tmp_path: Path, raised: Exception, status: int, told: tuple[str | None, ...], stream: bool
) -> None:
    """Whether it is raised at once or with the first piece, for streams too: a status, never a broken stream."""
    for engine in (FakeEngine(raised), FakeEngine(FakeAnswer([raised]))):
        async with serving(tmp_path, engine) as client, client.post(CHAT, json=body(stream=stream)) as response:
            error = (await response.json())["error"]
            assert response.status == status
            assert response.headers.get("Retry-After") == {429: "3", 503: "1"}.get(status)
        assert (error["type"], error["code"], error["param"]) == told
        assert "secret" not in error["message"]


async def test_an_error_in_the_middle_of_a_stream_is_an_event(tmp_path: Path) -> None:
    """What was said stays said; the error and the end follow."""
    engine = FakeEngine(FakeAnswer([Piece(0, "a"), RunFailed()]))
    async with serving(tmp_path, engine) as client, client.post(CHAT, json=body(stream=True)) as response:
        *_, error, done = events(await response.text())
    assert error["error"]["code"] == "internal_error"
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("asked", "data", "status", "code"),
    [
        (("POST", CHAT), b"{", 400, None),
        (("POST", CHAT), b'{"model":"m"}', 400, "missing_required_parameter"),
        (("POST", CHAT), json.dumps(body(model="other")).encode(), 404, "model_not_found"),
        (("GET", CHAT), None, 405, "method_not_supported"),
        (("POST", "/v1/embeddings"), b"{}", 404, "unknown_url"),
    ],
)
async def test_wrong_requests_are_answered_in_the_envelope(
    tmp_path: Path, asked: tuple[str, str], data: bytes | None, status: int, code: str | None
) -> None:
    """Paths, methods and bodies that are not served."""
    engine = FakeEngine(FakeAnswer([]))
    async with serving(tmp_path, engine) as client, client.request(*asked, data=data) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


async def test_a_body_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 413 and the limit."""
    assert MAX_BODY == 128 * 2**20
    monkeypatch.setattr("engines.serve.MAX_BODY", 2**20)
    engine = FakeEngine(FakeAnswer([]))
    async with serving(tmp_path, engine) as client, client.post(CHAT, data=io.BytesIO(b" " * (2**20 + 1))) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (413, "request_too_large")
    assert "1 MiB" in error["message"]


async def test_models_and_health(tmp_path: Path) -> None:
    """A ready engine says what it is."""
    async with serving(tmp_path, FakeEngine(FakeAnswer([]))) as client:
        async with client.get("/v1/models") as response:
            listed = await response.json()
        async with client.get("/health") as response:
            health = await response.json()
    assert listed["object"] == "list"
    assert [(one["id"], one["object"], one["max_model_len"]) for one in listed["data"]] == [("m", "model", 48)]
    assert response.status == 200
    assert health == {"status": "ready", "device": "cpu", "dtype": "bfloat16", "max_model_len": 48}


async def test_while_loading(tmp_path: Path) -> None:
    """Health says how far it is, completions say when to come back, models are listed."""
    async with serving(tmp_path, None) as client:
        async with client.get("/health") as response:
            assert response.status == 503
            assert await response.json() == {"status": "loading", "phase": "starting", "progress": 0.0}
        async with client.post(CHAT, json=body()) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await response.json())["error"]["code"] == "engine_unavailable"
        async with client.get("/v1/models") as response:
            assert [one["id"] for one in (await response.json())["data"]] == ["m"]


def test_progress_is_reported() -> None:
    """What the loader reports is what health says."""
    served = Served("m")
    served.report("weights", 1 / 3)
    assert served.health == Health("loading", phase="weights", progress=0.333)


def test_the_socket_is_private_and_removed(tmp_path: Path) -> None:
    """Only its owner may connect; a socket left behind is replaced, a file of another kind is not."""
    path = tmp_path / "s"
    for _ in range(2):
        listener = Listener(uds=path, host="", port=0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        listener.socket.close()
    listener.close()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        Listener(uds=path, host="", port=0)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (LoadError("the weights are gone; bring them back"), "altgate: the weights are gone; bring them back"),
        (KeyError("/secret/path"), "altgate: the model could not be loaded (KeyError); the engine's log says more"),
    ],
)
def test_a_failed_load_ends_with_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], raised: Exception, line: str
) -> None:
    """The last line on stderr is for people, the exit status is 1, and the socket is gone."""

    def load(_: Callable[[str, float], None]) -> FakeEngine:
        raise raised

    listener = Listener(uds=tmp_path / "s", host="", port=0)
    assert run(load, model="m", listener=listener) == 1
    assert capfd.readouterr().err.splitlines()[-1] == line
    assert not (tmp_path / "s").exists()


# --- the process ----------------------------------------------------------------------------------------------------

LOADS_FOR_EVER = """
import sys, threading
from pathlib import Path
from engines.serve import Listener, run

def load(report):
    report("weights", 0.5)
    print("loading", flush=True)
    threading.Event().wait()

listener = Listener(uds=Path(sys.argv[1]), host="", port=0)
status = run(load, model="m", listener=listener, exit_on_stdin_eof="--eof" in sys.argv)
print("status", status, flush=True)
"""


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a process whose load never ends, as far as its load."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", LOADS_FOR_EVER, str(tmp_path / "s"), *flags]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "loading\n"
        return child

    yield start
    for child in started:
        child.kill()
        with child:  # closes the pipes and waits
            pass


def test_sigterm_ends_a_load(tmp_path: Path, loading: Callable[..., "subprocess.Popen[str]"]) -> None:
    """Told to stop while it loads, an engine stops, and cleanly."""
    child = loading()
    child.terminate()
    out, _ = child.communicate(timeout=30)
    assert out == "status 0\n"
    assert not (tmp_path / "s").exists()


def test_the_end_of_stdin_ends_a_load(tmp_path: Path, loading: Callable[..., "subprocess.Popen[str]"]) -> None:
    """When the parent has gone, so does its engine, in the middle of loading."""
    child = loading("--eof")
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=30) == 0
    assert not (tmp_path / "s").exists()
