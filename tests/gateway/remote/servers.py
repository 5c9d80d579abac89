"""Servers on loopback that misbehave as told, and an engine in front of them."""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from gateway import wire
from gateway.catalogue import Model
from gateway.engine import Ask
from gateway.life import State
from gateway.remote import RemoteEngine

KEY = "sk-the-key-of-the-gateway"
NESTED = "[" * 100_000 + "]" * 100_000  # deeper than any reader goes
PNG = "data:image/png;base64,aGVsbG8="
COMPLETION = {
    "id": "chatcmpl-x",
    "object": "chat.completion",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "a cat"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
CHUNK = {
    "id": "chatcmpl-x",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "theirs",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "a cat"}, "finish_reason": None}],
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fake:
    """A server on loopback that gives its `answers` in turn, and well when there are none left.

    `requests` are those to chat completions, as they came, with their bodies; `probes` counts the others.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.always: Answer = well
        self.requests: list[tuple[web.Request, dict[str, Any]]] = []
        self.probes = 0
        self.models: object = {"object": "list", "data": [{"id": "theirs", "owned_by": "somebody"}]}
        self.models_status = 200
        self.begun = asyncio.Event()
        self.left = asyncio.Event()
        self.go = asyncio.Event()
        self.url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """The next answer."""
        self.requests.append((request, json.loads(await request.read())))
        answer = self.answers.pop(0) if self.answers else self.always
        return await answer(request)

    async def list(self, _: web.Request) -> web.Response:
        """What it serves."""
        self.probes += 1
        listing = self.models if isinstance(self.models, bytes) else json.dumps(self.models).encode()
        return web.Response(body=listing, status=self.models_status)

    async def waits(self, request: web.Request) -> web.StreamResponse:
        """Answers well, but only when told to go on."""
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return await well(request)

    @asynccontextmanager
    async def running(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator["Fake"]:
        """Serves until the block ends."""
        app = web.Application()
        app.router.add_get("/v1/models", self.list)
        app.router.add_post("/v1/chat/completions", self.chat)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True).start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()


async def well(request: web.Request) -> web.StreamResponse:
    """A caption, whole or in two events and the end."""
    if not json.loads(await request.read()).get("stream"):
        return web.json_response(COMPLETION)
    return await begun_and(b"data: [DONE]\n\n")(request)


def status(code: int, message: str = "secret words", **headers: str) -> Answer:
    """An error."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": message}}, status=code, headers=headers)

    return answer


def body(text: str, status: int = 200, encoding: str = "utf-8") -> Answer:
    """A body that says of itself that it is JSON."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=text.encode(encoding), status=status, content_type="application/json")

    return answer


def raw(data: bytes) -> Answer:
    """Those bytes on the connection and its end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(data)
        request.transport.close()
        return web.Response()

    return answer


def begun_and(rest: bytes) -> Answer:
    """A stream that begins well, goes on with those bytes and ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: " + json.dumps(CHUNK).encode() + b"\n\n" + rest)
        return response

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    """A stream whose connection is reset after the first event."""
    response = await begun_and(b"")(request)
    assert isinstance(request.transport, asyncio.Transport)
    request.transport.abort()
    return response


def engine(*urls: str, request_timeout: float = 30, **environ: str) -> RemoteEngine:
    """An engine for those servers; with `KEY=` it has a key."""
    model = Model(name="ours", engine="remote", source="theirs", urls=urls, api_key_env="KEY" if environ else None)
    return RemoteEngine(model, environ=environ, request_timeout=request_timeout)


@asynccontextmanager
async def serving(*fakes: Fake, request_timeout: float = 30) -> AsyncIterator[RemoteEngine]:
    """An engine in front of those fakes, which are up and have been probed."""
    async with engine(*(fake.url for fake in fakes), request_timeout=request_timeout, KEY=KEY) as running:
        await until(lambda: all(fake.probes for fake in fakes) and running.status.state is not State.STARTING)
        yield running


class Clock:
    """The monotonic clock, some seconds ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        """Now."""
        return time.monotonic() + self.ahead


async def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def request(*, stream: bool | None = None) -> Ask:
    """Asks about a picture that has a digest."""
    parts: list[wire.Part] = [wire.PicturePart(wire.ImageURL(PNG), uuid="d1gest"), wire.TextPart("what is this?")]

    async def ask() -> wire.ChatRequest:
        return wire.ChatRequest(model="ours", messages=[wire.Message("user", parts)], stream=stream, cache_salt="s4lt")

    return ask


async def caption(remote_engine: RemoteEngine) -> str | None:
    """The words of a whole answer."""
    return (await remote_engine.complete(request())).choices[0].message.content


async def read(remote_engine: RemoteEngine) -> list[wire.Chunk]:
    """All of a streamed answer."""
    return [chunk async for chunk in remote_engine.stream(request(stream=True))]


def free_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
