"""A stand-in for an engine: a real process on a real socket that speaks the wire and misbehaves on request.

`python -m tests.stand_in --uds PATH [--start BEHAVIOUR]`. How it starts is an option:

    well              it listens and is ready at once, or after `--load` seconds
    never ready       it listens and loads for ever
    download          it says how far its download is, and does not listen
    say why           it ends with a sentence for clients
    say nothing       it ends with status 5
    killed            SIGKILL ends it, as when memory runs out

How it answers is said by the text of the request's last part, so that one process serves every fault:

    (anything else)   the SHA-256 of each picture's bytes, separated by spaces
    die               the process ends without an answer
    die midway        the process ends in the middle of a stream
    hang              no answer at all, until the client leaves; the marker files given with --begun and --left are
                      written when the request has come and when the client has left
    garbage           200, and no JSON
    connection        a number that is the same for all requests on one connection
    refuse            400 with a parameter and a code
    overloaded        429 with Retry-After
    ending            503 with the code that ours have when they end
    unavailable       503 with Retry-After, as of a vLLM whose queue is full
    full midway       the same in the middle of a stream, with an error event
    broken            500
    huge              an answer, or an event of a stream, that has no end
    error midway      an error event in the middle of a stream
    dead              500, and from then on its health is 503, as of a vLLM whose engine has died under its server
    dead midway       the same in the middle of a stream, with an error event
    slow              an answer, or a stream's second word, that waits until the marker file given with --go exists

It sleeps and wakes as vLLM does, and answers 500 to whoever asks before it is awake and its caches are reset. The paths
given with --refuses are answered with 500, those with --hangs never. --journal has a line for each of these commands.
With --child it starts a child of its own. When its standard input ends, so does it with all that it has started.
"""

import argparse
import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway import wire
from gateway.wire import ChatCompletion, Choice, Chunk, ChunkChoice, Delta, TextPart, Usage

HEAD: dict[str, Any] = {"id": "chatcmpl-x", "created": int(time.time()), "model": "stand-in"}
USAGE = Usage(3, 2, 5, wire.PromptTokensDetails(image_tokens=2))
COMMANDS = ("/sleep", "/wake_up", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")
REFUSALS: dict[str, tuple[int, wire.ErrorBody, dict[str, str]]] = {
    "refuse": (400, wire.ErrorBody(message="Not so.", param="n", code="unsupported_parameter"), {}),
    "overloaded": (429, wire.ErrorBody(message="Full.", code="rate_limit_exceeded"), {"retry-after": "7"}),
    "ending": (503, wire.ErrorBody(message="secret /path of mine", code="engine_unavailable"), {}),
    "unavailable": (503, wire.ErrorBody(message="secret /path/of/mine"), {"retry-after": "9"}),
    "dead": (500, wire.ErrorBody(message="EngineCore encountered an issue.", type="InternalServerError"), {}),
    "broken": (500, wire.ErrorBody(message="secret /path/of/mine", type="server_error"), {}),
}


class StandIn:
    """The handlers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._ready_at = time.monotonic() + options.load
        self._dead = False
        self._connections: list[object] = []  # all that were ever asked for
        self._missing: set[str] = set()  # the commands without which it is not to be asked

    async def health(self, _: web.Request) -> web.Response:
        """Ready, unless it was started to be otherwise."""
        if self._dead:
            return web.Response(status=503)
        if self._options.start == "never ready" or time.monotonic() < self._ready_at:
            return web.json_response({"phase": "weights", "progress": 0.4}, status=503)
        return web.json_response({"device": "cpu"})

    async def command(self, request: web.Request) -> web.Response:
        """Falls asleep, wakes up or forgets, and writes it down."""
        write(self._options.journal, f"{self._options.name} {request.path_qs}")
        if request.path in self._options.hangs:
            await asyncio.Event().wait()
        if request.path in self._options.refuses:
            return web.Response(status=500)
        self._missing = set(COMMANDS[1:]) if request.path == "/sleep" else self._missing - {request.path}
        return web.Response()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answers or misbehaves."""
        if self._missing:
            return _error(*REFUSALS["broken"])
        asked = wire.decode_request(await request.read())
        last = asked.messages[-1].content[-1]
        command = last.text if isinstance(last, TextPart) else ""
        match command:
            case "die":
                os._exit(3)
            case "hang":
                return await self._hang()
            case "garbage":
                return web.Response(text="<html>")
            case "huge":
                return await _endless(request)
        self._dead = command.startswith("dead")
        if refusal := REFUSALS.get(command):
            return _error(*refusal)
        return await self._answer(request, asked, command)

    async def _answer(self, request: web.Request, asked: wire.ChatRequest, command: str) -> web.StreamResponse:
        words = self._connection(request) if command == "connection" else _digests(asked)
        if asked.stream:
            return await self._stream(request, command, words)
        await self._go(command)
        return _whole(words)

    def _connection(self, request: web.Request) -> str:
        if request.transport not in self._connections:
            self._connections.append(request.transport)
        return str(self._connections.index(request.transport))

    async def _hang(self) -> web.Response:
        if self._options.begun:
            Path(self._options.begun).touch()
        try:
            await asyncio.Event().wait()
        finally:
            if self._options.left:
                Path(self._options.left).touch()
        raise AssertionError

    async def _stream(self, request: web.Request, command: str, words: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event(Delta(role="assistant", content="")))
        for word in words.split(" "):
            await response.write(_event(Delta(content=word)))
            await self._midway(response, command)
        await response.write(_event(Delta(), "stop"))
        await response.write(wire.event(Chunk(choices=[], usage=USAGE, **HEAD)))
        await response.write(wire.DONE)
        return response

    async def _midway(self, response: web.StreamResponse, command: str) -> None:
        if command == "die midway":
            os._exit(3)
        if command in ("error midway", "dead midway"):
            body = wire.ErrorBody(message="secret /path/of/mine", type="server_error")
            await response.write(wire.event(wire.ErrorEnvelope(body)))
        if command == "full midway":
            await response.write(b'data: {"error":{"message":"secret","type":"Service Unavailable","code":503}}\n\n')
        await self._go(command)

    async def _go(self, command: str) -> None:
        while command == "slow" and not Path(self._options.go).exists():
            await asyncio.sleep(0.01)


def write(journal: str | None, line: str) -> None:
    """Appends a line, whole, to what several processes write."""
    if journal:
        with Path(journal).open("a") as file:
            file.write(f"{line}\n")


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b'data: {"id":"')
    while True:
        await response.write(b"x" * 2**20)


def _digests(asked: wire.ChatRequest) -> str:
    data = [base64.b64decode(part.image_url.url.partition(",")[2]) for _, part in wire.pictures_of(asked)]
    return " ".join(hashlib.sha256(each).hexdigest() for each in data) or "no picture"


def _whole(words: str) -> web.Response:
    choice = Choice(index=0, message=wire.AssistantMessage(content=words), finish_reason="stop")
    return web.Response(body=wire.encode(ChatCompletion(choices=[choice], usage=USAGE, **HEAD)))


def _event(delta: Delta, reason: wire.FinishReason | None = None) -> bytes:
    return wire.event(Chunk(choices=[ChunkChoice(index=0, delta=delta, finish_reason=reason)], **HEAD))


def _error(status: int, body: wire.ErrorBody, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=wire.encode(wire.ErrorEnvelope(body)), headers=headers)


def main() -> None:
    """Starts in the way asked for."""
    options = _options()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    match options.start:
        case "say why":
            sys.exit("a traceback\naltgate: the weights are made of cheese.")
        case "say nothing":
            sys.exit(5)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "download":
            print("altgate-loading: download 0.35", flush=True)
            threading.Event().wait()
    if options.child:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        write(options.journal, f"{options.name} child {child.pid}")
    print("stand-in: listening", flush=True)
    web.run_app(
        _application(StandIn(options)),
        path=options.uds,
        print=lambda *_: None,
        handler_cancellation=True,
        access_log=None,
        backlog=1024,  # as real engines have it
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--name", default="demo")
    parser.add_argument("--start", default="well")
    parser.add_argument("--load", type=float, default=0.0)
    parser.add_argument("--begun")
    parser.add_argument("--left")
    parser.add_argument("--go")
    parser.add_argument("--journal")
    parser.add_argument("--refuses", action="append", default=[])
    parser.add_argument("--hangs", action="append", default=[])
    parser.add_argument("--child", action="store_true")
    return parser.parse_args()


def _application(stand_in: StandIn) -> web.Application:
    app = web.Application(client_max_size=2**30)
    app.router.add_get("/health", stand_in.health)
    app.router.add_post("/v1/chat/completions", stand_in.chat)
    for path in COMMANDS:
        app.router.add_post(path, stand_in.command)
    return app


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
