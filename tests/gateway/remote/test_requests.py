"""What goes out to servers elsewhere and what comes back."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.errors import EngineFault, EngineUnavailable, GatewayError, InvalidRequest, Overloaded
from gateway.life import State
from tests.gateway.remote.servers import (
    CHUNK,
    COMPLETION,
    KEY,
    PNG,
    Answer,
    Fake,
    begun_and,
    body,
    caption,
    engine,
    read,
    serving,
    status,
)
from tests.services import running_server

ROOT = Path(__file__).parents[3]


async def test_the_request_goes_out_under_the_gateways_own_name_and_key(fake: Fake) -> None:
    """The model is called as the other server calls it; the key is the configured one; nothing comes compressed."""
    async with serving(fake) as running:
        assert await caption(running) == "a cat"

    sent, asked = fake.requests[0]
    assert (sent.path, asked["model"]) == ("/v1/chat/completions", "theirs")
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in sent.headers


async def test_no_key_is_sent_where_none_is_configured(fake: Fake) -> None:
    """A server without keys gets none, neither with requests nor with probes."""
    async with engine(f"{fake.url}/") as running:
        await caption(running)

    assert "Authorization" not in fake.requests[0][0].headers


@pytest.mark.parametrize("value", ["", " \n", "two\nlines", "schlüssel"])
async def test_a_variable_without_a_key_is_an_error_that_names_it(fake: Fake, value: str) -> None:
    """Nothing goes out without the key, and clients are told not to try again by themselves."""
    async with engine(fake.url, KEY=value) as running:
        with pytest.raises(
            EngineUnavailable, match="needs the key for its servers: set the environment variable"
        ) as caught:
            await caption(running)

        assert (running.status.state, running.status.can_serve) == (State.FAILED, False)
        assert "'api_key_env'" in (running.status.reason or "")
    assert not caught.value.heals
    assert (fake.requests, fake.probes) == ([], 0)


@pytest.mark.parametrize(("owner", "is_vllm"), [("vllm", True), ("somebody", False), (None, False)])
async def test_only_vllm_gets_the_pictures_digests_and_a_salt(fake: Fake, owner: str | None, is_vllm: bool) -> None:
    """Strict servers refuse a field that they do not know."""
    fake.models = {"data": [{"id": "theirs", "owned_by": owner}]}
    async with serving(fake) as running:
        await caption(running)

    [picture, _] = fake.requests[0][1]["messages"][0]["content"]
    assert (picture.get("uuid"), fake.requests[0][1].get("cache_salt")) == (
        ("d1gest", "s4lt") if is_vllm else (None, None)
    )
    assert picture["image_url"] == {"url": PNG}


async def test_the_clients_key_and_wishes_for_another_server_stay_here(fake: Fake, tmp_path: Path) -> None:
    """Through the front door: neither header nor field of a client changes where a request goes or with which key."""
    settings = (
        "[engines]\npreload = []\n"
        f'[models.ours]\nengine = "remote"\nurls = ["{fake.url}"]\nsource = "theirs"\napi_key_env = "THEIR_KEY"\n'
    )
    chat = {"model": "ours", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    chat |= {"api_base": "http://127.0.0.1:9/v1", "base_url": "http://127.0.0.1:9/v1", "api_key": "sk-client"}
    headers = {"Authorization": "Bearer sk-client", "X-Forwarded-Host": "127.0.0.1:9", "Cookie": "sk-client"}
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "THEIR_KEY": KEY}
    with running_server(tmp_path, settings=settings, environ=environ) as server:
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{server.base_url}/chat/completions", json=chat, headers=headers) as response,
        ):
            answer = await response.json()

    assert answer["choices"][0]["message"]["content"] == "a cat", answer
    sent, asked = fake.requests[0]
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert "sk-client" not in f"{dict(sent.headers)} {asked}"
    assert KEY not in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize("failure", [status(400, f"bad key {KEY}"), status(500, f"bad key {KEY}")])
async def test_a_server_that_repeats_the_key_does_not_give_it_away(
    fake: Fake, failure: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither client nor log reads it, nor whoever prints the engine."""
    error_event = f'data: {{"error": {{"message": "bad key {KEY}"}}}}\n\n'
    fake.answers = [failure, begun_and(error_event.encode())]
    async with serving(fake) as running:
        with pytest.raises(GatewayError) as whole:
            await caption(running)
        with pytest.raises(GatewayError) as streamed:
            await read(running)

    said = [record.__dict__["words"] for record in caplog.records if "words" in record.__dict__]
    assert "bad key ***" in said
    assert KEY not in f"{caplog.text} {said} {whole.value!r} {streamed.value!r} {running!r} {running.status!r}"


async def test_odd_but_legal_answers_are_read(fake: Fake) -> None:
    """Fields that others add, leave out or set to null do no harm, nor do comments and line ends in a stream."""
    completion: dict[str, Any] = {**COMPLETION, "timings": {}, "system_fingerprint": None, "service_tier": None}
    del completion["object"], completion["usage"]
    chunk = json.dumps({**CHUNK, "usage": None, "x_groq": {"id": 1}})
    last = json.dumps({**CHUNK, "choices": [], "usage": {**COMPLETION["usage"], "prompt_time": 0.1}})  # type: ignore[dict-item]
    stream = f": ping\r\n\r\nevent: message\r\ndata:{chunk}\r\n\r\nid: 7\ndata: {last}\n\ndata: [DONE]\n\n"
    fake.answers = [body(json.dumps(completion)), begun_and(stream.encode())]
    async with serving(fake) as running:
        assert await caption(running) == "a cat"

        assert len(await read(running)) == 3


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n\r"])
async def test_the_end_of_a_stream_needs_no_blank_line(fake: Fake, end: bytes) -> None:
    """Some servers close the connection right behind it."""
    fake.always = begun_and(b"data: " + json.dumps(CHUNK).encode() + b"\n" + end)
    async with serving(fake) as running:
        assert len(await read(running)) == 2


PICTURE = base64.b64encode(b"the bytes of a picture" * 50_000).decode()


@pytest.mark.parametrize("code", [400, 429, 500])
@pytest.mark.parametrize(
    "echo", [f"cannot load data:image/png;base64,{PICTURE}", f"cannot load {PICTURE}", "no " * 99_999]
)
async def test_an_engine_that_echoes_its_request_fills_neither_log_nor_answer(
    fake: Fake, code: int, echo: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No byte of a picture is in them, and no more words than somebody reads."""
    event = f'data: {{"error": {{"message": "{echo[:500_000]}"}}}}\n\n'
    fake.answers = [status(code, echo), begun_and(event.encode())]
    async with serving(fake) as running:
        with pytest.raises(GatewayError) as whole:
            await caption(running)
        with pytest.raises(EngineFault):
            await read(running)

    told = f"{whole.value} {caplog.text} {[record.__dict__.get('words') for record in caplog.records]}"
    assert len(told) < 1000
    assert PICTURE[:40] not in told


async def test_an_overloaded_engine_is_told_of_in_our_words(fake: Fake) -> None:
    """Its own may be anything, and a client can do no more than come back."""
    fake.always = status(429, "see https://intern.example/limits", **{"Retry-After": "7"})
    async with serving(fake) as running:
        with pytest.raises(Overloaded, match=r"^The engine of 'ours' has too much to do\. Try again soon\.$") as caught:
            await caption(running)

    assert caught.value.retry_after == 7


@pytest.mark.parametrize("name", ["x" * 101, "sk secret", "<html>", KEY])
async def test_a_parameter_that_is_none_is_not_passed_on(fake: Fake, name: str) -> None:
    """The sentence is; what stands where a name is wanted is a name or nothing."""
    fake.always = body(json.dumps({"error": {"message": "Not so.", "param": name, "code": name}}), status=400)
    async with serving(fake) as running:
        with pytest.raises(InvalidRequest, match=r"Not so\.") as caught:
            await caption(running)

    assert (caught.value.param, caught.value.code) == (None, None)


@pytest.mark.parametrize(
    "message",
    [
        "cannot identify image file <_io.BytesIO object at 0x7f09>",
        "1 validation error for Request\n  For further information visit https://errors.pydantic.dev/2",
        "ValueError: no such thing",
        "could not open /home/me/models/theirs/config.json",
        "x" * 501,
        "",
    ],
)
async def test_a_librarys_words_are_not_passed_on(fake: Fake, message: str) -> None:
    """What an engine says of the client's fault is told, unless it tells of the engine's insides."""
    async with serving(fake) as running:
        fake.answers = [status(400, message), status(400, "This model's maximum context length is 64 tokens.")]
        with pytest.raises(InvalidRequest, match="cannot do what this request asks for"):
            await caption(running)
        with pytest.raises(InvalidRequest, match="maximum context length is 64 tokens"):
            await caption(running)
