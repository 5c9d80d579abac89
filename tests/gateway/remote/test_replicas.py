"""When a replica is set aside and when it comes back; and what its death costs."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gateway import remote, wire
from gateway.errors import EngineFault, EngineTimeout, EngineUnavailable, GatewayError
from gateway.life import State
from tests.gateway.remote.servers import (
    CHUNK,
    KEY,
    NESTED,
    Answer,
    Clock,
    Fake,
    begun_and,
    caption,
    engine,
    free_port,
    request,
    serving,
    status,
    until,
)

CERTIFICATE = Path(__file__).parents[1] / "images" / "self_signed.pem"


@pytest.mark.parametrize("answer", [status(400), status(404), status(429)])
async def test_refusals_are_not_held_against_a_replica(fake: Fake, answer: Answer) -> None:
    """Thirty requests at fault themselves, and the next good one is served."""
    fake.answers = [answer] * 30
    async with serving(fake) as running:
        for _ in range(30):
            with pytest.raises(GatewayError):
                await caption(running)

        assert await caption(running) == "a cat"


async def test_clients_that_leave_are_not_held_against_a_replica(fake: Fake) -> None:
    """Their requests end at the server at once, and the next one is served."""
    async with serving(fake) as running:
        for _ in range(8):
            fake.answers, fake.begun, fake.left = [fake.waits], asyncio.Event(), asyncio.Event()
            work = asyncio.create_task(caption(running))
            await fake.begun.wait()
            work.cancel()
            await until(fake.left.is_set)

        assert await caption(running) == "a cat"


async def test_leaving_a_stream_closes_its_connection(fake: Fake) -> None:
    """The server notices between two events."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = await begun_and(b"")(request)
        await fake.waits(request)
        return response

    fake.always = endless
    async with serving(fake) as running:
        chunks = running.stream(request(stream=True))
        await anext(chunks)
        await chunks.aclose()

        await until(fake.left.is_set)


async def test_a_replica_that_fails_is_left_alone_and_tried_again_by_one(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request reaches it during its pause; then one does, the others are refused; its success lets them in."""
    clock = Clock()
    monkeypatch.setattr(remote, "time", clock)
    fake.answers = [status(500)] * 5 + [fake.waits]
    async with serving(fake) as running:
        for _ in range(5):
            with pytest.raises(EngineFault):
                await caption(running)
        with pytest.raises(EngineUnavailable, match="too many failures") as caught:
            await caption(running)
        assert (len(fake.requests), running.status.state) == (5, "failed")
        assert 1 <= (caught.value.retry_after or 0) <= 5
        clock.ahead = 5.0
        trial = asyncio.create_task(caption(running))
        await fake.begun.wait()
        with pytest.raises(EngineUnavailable):
            await caption(running)
        fake.go.set()
        assert await trial == "a cat"

        assert await asyncio.gather(*(caption(running) for _ in range(2))) == ["a cat"] * 2
    assert len(fake.requests) == 8


async def test_a_replica_on_trial_gets_one_request_however_long_pictures_take(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is sent is decided when the pictures are ready: two that began before the trial are not both sent."""
    clock = Clock()
    monkeypatch.setattr(remote, "time", clock)
    fake.answers = [status(500)] * 5 + [fake.waits]
    ready = asyncio.Event()

    async def ask() -> wire.ChatRequest:
        await ready.wait()
        return await request()()

    async with serving(fake) as running:
        for _ in range(5):
            with pytest.raises(EngineFault):
                await caption(running)
        clock.ahead = 5.0
        both = [asyncio.create_task(running.complete(ask)) for _ in range(2)]
        await asyncio.sleep(0)
        ready.set()
        await fake.begun.wait()
        fake.go.set()
        results = await asyncio.gather(*both, return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["ChatCompletion", "EngineUnavailable"]
    assert len(fake.requests) == 6


async def test_a_slow_replica_meets_the_limit(fake: Fake) -> None:
    """A request never takes longer than it may, and is not sent again."""
    fake.always = fake.waits
    async with serving(fake, request_timeout=0.3) as running:
        for _ in range(5):
            with pytest.raises(EngineTimeout):
                await caption(running)
        with pytest.raises(EngineUnavailable):
            await caption(running)

    assert len(fake.requests) <= 5


async def test_nothing_is_known_before_the_first_probe(fake: Fake) -> None:
    """So it does not count as ready yet, but a request is sent rather than refused."""
    async with engine(fake.url) as running:
        assert (running.status.state, running.status.can_serve) == (State.STARTING, False)

        assert await caption(running) == "a cat"


async def test_when_all_are_set_aside_a_request_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns when to come back, and no host; the log names the servers."""
    monkeypatch.setattr(remote, "PROBE_EVERY", 100)
    ports = [free_port(), free_port()]
    async with engine(*(f"http://127.0.0.1:{port}/v1" for port in ports)) as running:
        await until(lambda: running.status.state is State.FAILED)
        with pytest.raises(EngineUnavailable, match=r"'ours' cannot be served.*\(no answer\)") as caught:
            await caption(running)

        assert running.status.reason == "none of its servers can be used now (no answer)"
    assert "127.0.0.1" not in caught.value.message
    assert 50 <= (caught.value.retry_after or 0) <= 100
    assert f"127.0.0.1:{ports[0]}/v1 is set aside: no answer" in caplog.text


@pytest.mark.parametrize(
    ("listed", "code", "reason"),
    [
        ({}, 401, "status 401"),
        ({}, 302, "status 302"),
        ([], 200, "no list"),
        ({"data": 5}, 200, "no list"),
        (f'{{"x": {NESTED}}}'.encode(), 200, "no list"),
    ],
)
async def test_a_replica_is_set_aside_by_its_probe(fake: Fake, listed: object, code: int, reason: str) -> None:
    """It gets no request when its list of models is not to be had."""
    fake.models, fake.models_status = listed, code
    async with serving(fake) as running:
        with pytest.raises(EngineUnavailable, match=reason):
            await caption(running)

    assert fake.requests == []


async def test_a_probe_that_fails_in_an_unknown_way_is_not_the_last(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The replica is set aside, the log has the rest, and it comes back when it answers."""
    monkeypatch.setattr(remote, "PROBE_EVERY", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_decode_listing", lambda _: 1 / 0)
        async with serving(fake) as running:
            assert running.status.reason == "none of its servers can be used now (a probe that failed)"
            patch.undo()
            await until(lambda: running.status.can_serve)
    assert "ZeroDivisionError" in caplog.text


async def test_a_probe_brings_a_replica_back(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any traffic."""
    monkeypatch.setattr(remote, "PROBE_EVERY", 0.05)
    fake.models_status = 503
    async with serving(fake) as running:
        assert running.status.state is State.FAILED
        fake.models_status = 200
        await until(lambda: running.status.can_serve)

        assert await caption(running) == "a cat"


async def test_who_wants_the_model_has_it_probed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not only when the next probe is due."""
    monkeypatch.setattr(remote, "PROBE_EVERY", 3600)
    fake.models_status = 503
    async with serving(fake) as running:
        fake.models_status = 200
        running.want()

        await until(lambda: running.status.can_serve)


async def test_a_connection_that_fails_has_the_replica_probed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed request is enough to learn that nobody is there any more."""
    monkeypatch.setattr(remote, "PROBE_EVERY", 3600)
    fake = Fake()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        await server.enter_async_context(fake.running())
        running = await stack.enter_async_context(serving(fake))
        await server.aclose()
        assert running.status.state is State.READY
        with pytest.raises(EngineUnavailable, match="failed or broke off"):
            await caption(running)

        await until(lambda: running.status.reason == "none of its servers can be used now (no answer)")


async def test_a_host_that_cannot_be_is_no_answer() -> None:
    """A name that no resolver takes is as good as a server that is down."""
    async with engine("http://not..possible/v1") as running:
        with pytest.raises(EngineUnavailable):
            await caption(running)

        await until(lambda: running.status.reason == "none of its servers can be used now (no answer)")


async def test_a_certificate_that_cannot_be_verified_is_no_answer() -> None:
    """Neither request nor key goes to a server that may be anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with Fake().running(tls=context) as fake, engine(fake.url, KEY=KEY) as running:
        with pytest.raises(EngineUnavailable):
            await caption(running)
        await until(lambda: running.status.state is State.FAILED)

    assert (fake.requests, fake.probes) == ([], 0)


PROGRAM = """
import asyncio, pathlib, socket, sys
from aiohttp import web

async def models(_):
    return web.json_response({"data": []})

async def chat(request):
    response = web.StreamResponse()
    if (await request.json()).get("stream"):
        await response.prepare(request)
        await response.write(sys.argv[3].encode())
    pathlib.Path(sys.argv[2]).touch()
    await asyncio.Event().wait()

app = web.Application()
app.router.add_get("/v1/models", models)
app.router.add_post("/v1/chat/completions", chat)
web.run_app(app, sock=socket.socket(fileno=int(sys.argv[1])), print=None, access_log=None)
"""


@contextmanager
def process(begun: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A server in a process of its own that touches that file when it has begun an answer, never ends it; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = [str(listener.fileno()), str(begun), f"data: {json.dumps(CHUNK)}\n\n"]
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
    try:
        yield child, f"http://127.0.0.1:{port}/v1"
    finally:
        child.kill()
        child.wait()


async def test_one_replica_is_killed_and_no_request_is_lost(fake: Fake, tmp_path: Path) -> None:
    """The requests that hung in the dead process are answered by the other replica, and so are all that follow."""
    with process(tmp_path / "begun") as (doomed, url):
        async with engine(url, fake.url) as running:
            fake.always = fake.waits
            work = [asyncio.create_task(caption(running)) for _ in range(12)]
            await until(lambda: (tmp_path / "begun").exists() and len(fake.requests) == 6)
            fake.go.set()
            doomed.send_signal(signal.SIGKILL)
            work += [asyncio.create_task(caption(running)) for _ in range(4)]

            assert await asyncio.gather(*work) == ["a cat"] * 16


async def test_a_stream_ends_in_an_error_when_its_replica_is_killed(fake: Fake, tmp_path: Path) -> None:
    """What the dead process had begun cannot be gone on with elsewhere; the next request is served."""
    with process(tmp_path / "begun") as (doomed, url):
        async with engine(url, fake.url) as running:
            chunks = running.stream(request(stream=True))
            await anext(chunks)
            doomed.send_signal(signal.SIGKILL)
            with pytest.raises(EngineUnavailable, match="broke off"):
                _ = [chunk async for chunk in chunks]

            assert fake.requests == []
            assert await caption(running) == "a cat"
