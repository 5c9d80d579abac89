"""Gateways as separate processes, many clients at once, and one engine elsewhere that counts what it is asked."""

import asyncio
import hashlib
import json
import os
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct

from gateway import wire
from tests.gateway.remote.servers import COMPLETION, Answer, Fake, begun_and
from tests.services import Server, running_server

ROOT = Path(__file__).parents[2]
LIMITS = aiohttp.ClientTimeout(total=120)


class Told(Struct):
    """An answer as a client has it: its status, the words, what the cache says of it, its id and headers."""

    status: int
    words: str
    cache: str
    id: str
    headers: Mapping[str, str]


@asynccontextmanager
async def gateways(
    folder: Path,
    engine: Fake,
    count: int = 1,
    *,
    workers: int = 1,
    server: str = "[server]\nmax_requests = 5000",
    cache: str = "",
    settings: str = "",
    patient: bool = True,
) -> AsyncIterator[list[Server]]:
    """So many gateways, of so many workers, with that engine behind them under the name `m`, once they have found it.

    Unless what it does about time is itself to be seen, they are patient with Redis.
    """
    text = (
        f"{server}\nworkers = {workers}\n[engines]\npreload = []\n[cache]\n{cache}\n{settings}\n"
        f'[models.m]\nengine = "remote"\nurls = ["{engine.url}"]\nmax_pictures = 4\n'
    )
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(count):
            place = folder / f"gateway-{number}"
            place.mkdir()
            environ = {**os.environ, "PYTHONPATH": str(ROOT)}
            running = running_server(
                place, settings=text, environ=environ, module="tests.flows.patient" if patient else "gateway.cli"
            )
            servers.append(await asyncio.to_thread(running.__enter__))
            stack.push_async_callback(asyncio.to_thread, running.__exit__, None, None, None)
        async with asyncio.timeout(30):
            while engine.probes < count * workers:
                await asyncio.sleep(0.01)
        yield servers


@asynccontextmanager
async def clients(
    *, sent: asyncio.Semaphore | None = None, begun: asyncio.Semaphore | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections without a limit; told are every request that has been sent, and every answer that has begun."""
    trace = aiohttp.TraceConfig()
    for event, told in ((trace.on_request_chunk_sent, sent), (trace.on_request_end, begun)):
        if told is not None:
            event.append(_telling(told))
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=LIMITS, trace_configs=[trace]) as session:
        yield session


def _telling(told: asyncio.Semaphore) -> Any:
    async def tell(*_: object) -> None:
        told.release()

    return tell


async def ask(
    session: aiohttp.ClientSession, server: Server, headers: Mapping[str, str] | None = None, **fields: Any
) -> Told:
    """One chat completion, whole or streamed, read to its end."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with session.post(f"{server.base_url}/chat/completions", json=plain | fields, headers=headers) as response:
        body = await response.read()
        said = response.headers
    if fields.get("stream") and response.status == 200:
        events = [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
        words = "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", []))
        failed = next((event["error"]["code"] for event in events if "error" in event), None)
        return Told(response.status, failed or words, said["x-altgate-cache"], events[0].get("id", ""), said)
    answer = json.loads(body)
    if "error" in answer:
        return Told(response.status, answer["error"]["code"], said.get("x-altgate-cache", ""), "", said)
    content = answer["choices"][0]["message"]["content"]
    return Told(response.status, content, said["x-altgate-cache"], answer["id"], said)


def echo(engine: Fake, *, waits: bool = False) -> Answer:
    """Answers with the digests of the pictures, and with the words; waits for `go` in the middle if told to."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = wire.decode_request(await request.read())
        words = " ".join([*_digests(asked), *_texts(asked)])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        engine.begun.set()
        try:
            if not asked.stream:
                if waits:
                    await engine.go.wait()
                return web.json_response(COMPLETION | {"choices": [_choice(words)]})
            await response.prepare(request)
            half = len(words) // 2
            await response.write(_event({"role": "assistant", "content": words[:half]}))
            if waits:
                await engine.go.wait()
            await response.write(_event({"content": words[half:]}))
            await response.write(_event({}, "stop") + wire.DONE)
        except asyncio.CancelledError:
            engine.left.set()
            raise
        except ConnectionError:
            engine.left.set()
        return response

    return answer


def _choice(words: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}


def _event(delta: dict[str, Any], reason: str | None = None) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _digests(asked: wire.ChatRequest) -> Sequence[str]:
    data = [b64decode(part.image_url.url.partition(",")[2]) for _, part in wire.pictures_of(asked)]
    return [hashlib.sha256(each).hexdigest() for each in data]


def _texts(asked: wire.ChatRequest) -> Sequence[str]:
    return [part.text for turn in asked.messages for part in turn.content if isinstance(part, wire.TextPart)]


__all__ = ["Fake", "Told", "ask", "begun_and", "clients", "echo", "gateways"]
