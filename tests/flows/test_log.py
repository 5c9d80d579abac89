"""No secret ever stands in the log, whatever happens and however much it says."""

import asyncio
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.shared import Fake, begun_and
from tests.gateway.remote import servers
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server

KEY, WRONG = "ag-s3cretkey" + "x" * 34, "ag-s3cretwrong" + "x" * 32
PROMPT = "pr0mpt words"
PNG = pictures.png(SCENES[12])
QUERY = "t0ken=querysecret"
SECRETS = (KEY, WRONG, QUERY, "querysecret", "s3cretkey", "s3cretwrong", "l0gin", b64encode(PNG).decode()[20:60])
ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def site() -> AsyncIterator[str]:
    """A site with a picture, and with much that is none."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/loop":
            raise web.HTTPFound(f"/loop?{QUERY}")
        return web.Response(body=PNG) if request.path == "/a.png" else web.Response(status=404, text=PROMPT)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def bodies(url: str) -> list[object]:
    """Requests of every kind: good ones, and what is wrong with others."""
    picture = message(data_url(PNG), text=PROMPT)
    plain = {"model": "m", "messages": [picture]}
    broken = data_url(PNG)[:-400]
    by_url = [
        f"{url}/a.png?{QUERY}",
        f"{url}/none?{QUERY}",
        f"{url}/loop?{QUERY}",
        f"http://l0gin:pw@x.invalid/?{QUERY}",
    ]
    return [
        plain,
        plain,
        plain | {"stream": True},
        plain | {"temperature": PROMPT},
        plain | {"model": PROMPT},
        plain | {"messages": [{"role": PROMPT, "content": PROMPT}]},
        plain | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {PROMPT: PROMPT}}}},
        plain | {PROMPT: PROMPT},
        plain | {"messages": [message(broken, text=PROMPT)]},
        plain | {"messages": [message("data:image/png;base64,@@@@" + broken, text=PROMPT)]},
        plain | {"messages": [message(PROMPT, text=PROMPT)]},
        *[plain | {"messages": [message(each, text=f"{PROMPT} {number}")]} for number, each in enumerate(by_url)],
    ]


def failures() -> list[servers.Answer]:
    """What an engine may do instead of answering; it repeats what it was asked wherever it can."""
    echo = f"cannot answer '{PROMPT}' about {data_url(PNG)} for Bearer {KEY}"
    event = json.dumps({"error": {"message": echo, "type": "server_error"}}).encode()
    return [
        servers.status(500, echo),
        servers.status(400, f"{echo} Traceback"),
        servers.status(503, echo),
        servers.status(429, echo),
        servers.body(echo),
        servers.raw(f"HTTP/1.1 {echo}\r\n\r\n".encode()),
        begun_and(b"data: " + event + b"\n\n"),
        begun_and(f"data: {echo}\n\n".encode()),
        servers.cut,
    ]


async def driven(server: Server, engine: Fake, url: str) -> None:
    """Sends all of it, well and badly."""
    headers = with_key(KEY)
    async with aiohttp.ClientSession(headers=headers) as session:
        for body in bodies(url):
            await post(session, server, json.dumps(body))
        for number, failure in enumerate(failures()):
            for stream in (False, True):
                await fails(session, server, engine, failure, f"{PROMPT} {number} {stream}", stream=stream)
        for raw in (f'{{"model": "{PROMPT}', f"[{PROMPT}", "\x00", "[" * 5000):
            await post(session, server, raw)
        for path in (f"/v1/{data_url(PNG)[:180]}", f"/{KEY}", f"/v1/models?{QUERY}", f"/v1/models/m?{QUERY}"):
            async with session.get(server.root + path) as response:
                await response.read()
        await left(session, server, engine)
    async with aiohttp.ClientSession() as session:
        await post(session, server, json.dumps(bodies(url)[0]), with_key(WRONG))
        await post(session, server, json.dumps(bodies(url)[0]), {"authorization": KEY})
    await garbled(server)


async def fails(
    session: aiohttp.ClientSession, server: Server, engine: Fake, failure: servers.Answer, words: str, *, stream: bool
) -> None:
    """A request that the engine does not answer, and some that it does, so that it is not left alone for a while."""
    body = json.dumps({"model": "m", "stream": stream, "messages": [message(data_url(PNG), text=words)]})
    for answers in ([failure, failure], [], [], []):
        engine.answers = answers
        await post(session, server, body, {"cache-control": "no-store"})


async def post(
    session: aiohttp.ClientSession, server: Server, body: str, headers: Mapping[str, str] | None = None
) -> None:
    """One request, whatever comes of it."""
    kind = {"content-type": "application/json"}
    async with session.post(
        f"{server.base_url}/chat/completions", data=body, headers=kind | dict(headers or {})
    ) as got:
        await got.read()


async def left(session: aiohttp.ClientSession, server: Server, engine: Fake) -> None:
    """A client that does not wait for its answer."""
    engine.answers = [engine.waits]
    body = json.dumps({"model": "m", "messages": [message(data_url(PNG), text=f"{PROMPT} left")]})
    leaving = asyncio.create_task(post(session, server, body))
    await engine.begun.wait()
    leaving.cancel()
    await engine.left.wait()


async def garbled(server: Server) -> None:
    """What is no HTTP."""
    address = urlsplit(server.root)
    for sent in (
        f"POST {PROMPT}\r\nAuthorization: Bearer {KEY}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{KEY}\r\n: {PROMPT}\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(sent.encode())
        await reader.read()
        writer.close()


@asynccontextmanager
async def talkative(folder: Path, settings: str) -> AsyncIterator[tuple[Server, Fake, str]]:
    """A gateway that says all it can, asyncio's debugging included; an engine behind it; a site."""
    async with Fake().running() as engine, site() as url:
        port = urlsplit(url).port
        text = (
            f'{settings}\n[engines]\npreload = []\n[images]\nallowed_networks = ["127.0.0.0/8"]\n'
            f'allowed_ports = [{port}]\n[models.m]\nengine = "remote"\nurls = ["{engine.url}"]\n'
            + section("ci", KEY, 'team = "web"')
        )
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "always"}
        running = running_server(folder, settings=text, environ=environ)
        server = await asyncio.to_thread(running.__enter__)
        try:
            yield server, engine, url
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_secret_is_ever_written(tmp_path: Path, form: str) -> None:
    """At debug level, whatever goes well or wrong: no key, no part of a picture, no query, no word of a prompt."""
    async with talkative(tmp_path, f'[log]\nlevel = "debug"\nformat = "{form}"') as (server, engine, url):
        await driven(server, engine, url)
    log = server.log.read_text()

    assert not [secret for secret in (*SECRETS, PROMPT, "pr0mpt") if secret in log]
    for said in ("POST /v1/chat/completions 200", "POST /v1/chat/completions 499", "answered 500", "engine_error"):
        assert said in log
    assert log.count("POST /v1/chat/completions") >= len(bodies("")) + 2 * len(failures())
    if form == "json":
        lines = [json.loads(line) for line in log.splitlines()]
        assert {line.get("team") for line in lines} >= {"web"}
        assert {line["logger"] for line in lines if "logger" in line} >= {"gateway.upstream", "uvicorn.error"}


async def test_prompts_are_written_where_that_is_asked_for(tmp_path: Path) -> None:
    """They and what engines say of them, and still no key, picture or query."""
    async with talkative(tmp_path, "[log]\nprompts = true") as (server, engine, url):
        await driven(server, engine, url)
    log = server.log.read_text()

    lines = [json.loads(line) for line in log.splitlines()]
    assert PROMPT in {line.get("prompt") for line in lines}
    assert f"cannot answer '{PROMPT}' about" in log
    assert not [secret for secret in SECRETS if secret in log]
