"""A stand-in for an engine: a real process on a real socket that speaks the wire and misbehaves on request.

`python -m tests.stand_in --uds PATH [--start BEHAVIOUR]`. How it starts is an option; how it answers is said by the
text of the request's last part, so that one process serves every fault:

    (anything else)   the SHA-256 of each picture's bytes, separated by spaces
    die               the process ends without an answer
    die midway        the process ends in the middle of a stream
    hang              no answer at all, until the client leaves; the marker files given with --begun and --left are
                      written when the request has come and when the client has left
    garbage           200, and no JSON
    refuse            400 with a parameter and a code
    overloaded        429 with Retry-After
    broken            500
    error midway      an error event in the middle of a stream
    slow              a stream that waits before its second word until the marker file given with --go exists
"""

import argparse
import asyncio
import base64
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway import wire
from gateway.wire import ChatCompletion, Choice, Chunk, ChunkChoice, Delta, TextPart, Usage

HEAD: dict[str, Any] = {"id": "chatcmpl-x", "created": int(time.time()), "model": "stand-in"}
USAGE = Usage(3, 2, 5, wire.PromptTokensDetails(image_tokens=2))


class StandIn:
    """The handlers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    async def health(self, _: web.Request) -> web.Response:
        """Ready, unless it was started to be otherwise."""
        if self._options.start == "never ready":
            return web.json_response({"phase": "weights", "progress": 0.4}, status=503)
        return web.json_response({"device": "cpu"})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answers or misbehaves."""
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
            case "refuse":
                return _error(400, wire.ErrorBody(message="Not so.", param="n", code="unsupported_parameter"))
            case "overloaded":
                return _error(429, wire.ErrorBody(message="Full.", code="rate_limit_exceeded"), {"retry-after": "7"})
            case "broken":
                return _error(500, wire.ErrorBody(message="secret /path/of/mine", type="server_error"))
        words = _digests(asked)
        return await self._stream(request, command, words) if asked.stream else _whole(words)

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
        if command == "error midway":
            body = wire.ErrorBody(message="secret /path/of/mine", type="server_error")
            await response.write(wire.event(wire.ErrorEnvelope(body)))
        while command == "slow" and not Path(self._options.go).exists():
            await asyncio.sleep(0.01)


def _digests(asked: wire.ChatRequest) -> str:
    data = [base64.b64decode(part.image_url.url.partition(",")[2]) for _, part in wire.pictures_of(asked)]
    return " ".join(hashlib.sha256(each).hexdigest() for each in data) or "no picture"


def _whole(words: str) -> web.Response:
    choice = Choice(index=0, message=wire.AssistantMessage(content=words), finish_reason="stop")
    return web.Response(body=wire.encode(ChatCompletion(choices=[choice], usage=USAGE, **HEAD)))


def _event(delta: Delta, reason: wire.FinishReason | None = None) -> bytes:
    return wire.event(Chunk(choices=[ChunkChoice(index=0, delta=delta, finish_reason=reason)], **HEAD))


def _error(status: int, body: wire.ErrorBody, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=wire.encode(wire.ErrorEnvelope(body)), headers=headers)


def main() -> None:
    """Starts in the way asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--start", default="well")
    parser.add_argument("--begun")
    parser.add_argument("--left")
    parser.add_argument("--go")
    options = parser.parse_args()
    if options.start == "say why":
        sys.exit("a traceback\naltgate: the weights are made of cheese.")
    if options.start == "say nothing":
        sys.exit(5)
    stand_in = StandIn(options)
    app = web.Application(client_max_size=2**30)
    app.router.add_get("/health", stand_in.health)
    app.router.add_post("/v1/chat/completions", stand_in.chat)
    print("stand-in: listening", flush=True)
    web.run_app(app, path=options.uds, print=lambda *_: None, handler_cancellation=True, access_log=None)


if __name__ == "__main__":
    main()
