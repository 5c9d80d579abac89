"""The HTTP face of a home-made engine: chat completions, models and health, on a Unix socket or a TCP port.

The socket opens first; while the model loads, `/health` says how far it is. The life of a completion: read,
`Engine.answer`, then its pieces as they are made, whole or as a stream. A client that leaves cancels its handler,
whether it streams or not, and closing the answer ends the work.
"""

import asyncio
import concurrent.futures
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from math import ceil
from typing import Final, Literal, NamedTuple, Protocol

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from engines.batcher import Closed, QueueFull, RunFailed
from engines.listener import Listener
from engines.loading import LoadError, Report
from gateway import wire

log = logging.getLogger(__name__)

MAX_BODY: Final = 128 * 2**20
DRAIN_SECONDS: Final = 10.0
BACKLOG: Final = 1024  # connections not yet accepted: a busy engine is not to seem a dead one
LOADING_RETRY_SECONDS: Final = 1.0


class Health(Struct, frozen=True, omit_defaults=True):
    """What `/health` answers. `progress` is a fraction of one; `max_model_len` counts tokens."""

    status: Literal["loading", "ready"]
    phase: str | UnsetType = UNSET
    progress: float | UnsetType = UNSET
    device: str | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET


class Piece(NamedTuple):
    """What is new in one of the answers. `finish` comes with its last piece."""

    choice: int
    text: str = ""
    refusal: str | None = None
    finish: wire.FinishReason | None = None


class Answer(Protocol):
    """An answer in the making; `choices` is how many were asked for."""

    choices: int

    @property
    def usage(self) -> wire.Usage:
        """The tokens so far; all of them once `pieces` has ended."""

    def pieces(self) -> AsyncIterator[Piece]:
        """What is made, as it is made; every choice ends with a piece that has a `finish`."""

    def close(self) -> None:
        """Ends the work, finished or not."""


class Engine(Protocol):
    """A loaded model that answers."""

    @property
    def health(self) -> Health:
        """What `/health` says of it."""

    async def answer(self, request: wire.ChatRequest) -> Answer:
        """Begins to answer; raises wire.Fault or QueueFull when it will not."""

    async def close(self) -> None:
        """Ends all work."""


@dataclass(eq=False)
class Refused(Exception):
    """A request that is answered with an error, in OpenAI's terms. `retry_after` is in seconds."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str = "invalid_request_error"
    retry_after: float | None = None

    @property
    def envelope(self) -> wire.ErrorEnvelope:
        """The form in which it leaves."""
        return wire.ErrorEnvelope(
            wire.ErrorBody(message=self.message, type=self.type, param=self.param, code=self.code)
        )


@dataclass
class Served:
    """What the routes serve: a name, and the engine once it is loaded. The loader alone writes to it."""

    model: str
    started: int = field(default_factory=lambda: int(time.time()))
    loading: Health = field(default_factory=lambda: Health("loading", phase="starting", progress=0.0))
    engine: Engine | None = None

    @property
    def health(self) -> Health:
        """How it stands."""
        return self.engine.health if self.engine else self.loading

    def report(self, phase: str, progress: float) -> None:
        """Notes how far loading is."""
        self.loading = Health("loading", phase=phase, progress=round(progress, 3))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        if self.engine is None:
            raise _unavailable(f"The model is loading ({self.loading.phase}). Try again.")
        asked = wire.decode_request(await request.read())
        if asked.model != self.model:
            sentence = f"The model {asked.model[:100]!r} is not served here; {self.model!r} is."
            raise Refused(404, sentence, code="model_not_found", param="model")
        head = _Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), self.model)
        answer = await self.engine.answer(asked)
        with closing(answer):
            if not asked.stream:
                return _json(200, await _whole(answer, head))
            with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
            return await _stream(request, _events(answer, head, with_usage=with_usage))

    async def models(self, _: web.Request) -> web.Response:
        """`GET /v1/models`: the one model, also while it loads."""
        return _json(200, _Models([_Model(self.model, self.started, self.health.max_model_len)]))

    async def told_health(self, _: web.Request) -> web.Response:
        """`GET /health`: 200 when requests are answered, 503 before."""
        return _json(200 if self.engine else 503, self.health)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors])
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.told_health)
        return app


class _Model(Struct, frozen=True):
    id: str
    created: int
    max_model_len: int | UnsetType
    object: Literal["model"] = "model"
    owned_by: str = "altgate"


class _Models(Struct, frozen=True):
    data: list[_Model]
    object: Literal["list"] = "list"


class _Head(NamedTuple):
    """What every chunk of an answer repeats."""

    id: str
    created: int
    model: str


async def _whole(answer: Answer, head: _Head) -> wire.ChatCompletion:
    texts = [""] * answer.choices
    refusals: list[str | None] = [None] * answer.choices
    finishes: list[wire.FinishReason] = ["stop"] * answer.choices
    async for piece in answer.pieces():
        texts[piece.choice] += piece.text
        refusals[piece.choice] = piece.refusal or refusals[piece.choice]
        finishes[piece.choice] = piece.finish or finishes[piece.choice]
    choices = [
        wire.Choice(index=at, message=wire.AssistantMessage(content=text, refusal=refusal), finish_reason=finish)
        for at, (text, refusal, finish) in enumerate(zip(texts, refusals, finishes, strict=True))
    ]
    return wire.ChatCompletion(**head._asdict(), choices=choices, usage=answer.usage)


async def _events(answer: Answer, head: _Head, *, with_usage: bool) -> AsyncIterator[bytes]:
    """The answer as server-sent events: the roles in order of the choices, the words, the usage when asked for."""

    def chunk(choices: list[wire.ChunkChoice], usage: wire.Usage | None = None) -> bytes:
        return wire.event(wire.Chunk(**head._asdict(), choices=choices, usage=usage if with_usage else UNSET))

    pieces = answer.pieces()
    piece = await anext(pieces, None)  # an engine that fails at once fails with a status, not inside of a stream
    for choice in range(answer.choices):
        yield chunk([wire.ChunkChoice(index=choice, delta=wire.Delta(role="assistant", content=""))])
    while piece is not None:
        for change in _changes(piece):
            yield chunk([change])
        piece = await anext(pieces, None)
    if with_usage:
        yield chunk([], answer.usage)
    yield wire.DONE


def _changes(piece: Piece) -> list[wire.ChunkChoice]:
    chunks = []
    if piece.text:
        delta = wire.Delta(content=piece.text, refusal=UNSET if piece.refusal is None else piece.refusal)
        chunks.append(wire.ChunkChoice(index=piece.choice, delta=delta))
    if piece.finish:
        chunks.append(wire.ChunkChoice(index=piece.choice, delta=wire.Delta(), finish_reason=piece.finish))
    return chunks


async def _stream(request: web.Request, events: AsyncIterator[bytes]) -> web.StreamResponse:
    first = await anext(events)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    await response.write(first)
    try:
        async for event in events:
            await response.write(event)
    except ConnectionError:
        raise  # the client has left
    except Exception as error:  # noqa: BLE001 -- too late for a status; the stream says what happened
        await response.write(wire.event(_refused(error).envelope) + wire.DONE)
    await response.write_eof()
    return response


def _json(status: int, value: Struct) -> web.Response:
    return web.Response(status=status, body=wire.encode(value), content_type="application/json")


# --- errors ---------------------------------------------------------------------------------------------------------


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        raise  # nobody is left to answer
    except Exception as error:  # noqa: BLE001 -- this is the one place where errors become answers
        refused = _refused(error)
    response = _json(refused.status, refused.envelope)
    if refused.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, ceil(refused.retry_after)))
    return response


def _refused(error: Exception) -> Refused:
    match error:
        case Refused():
            return error
        case wire.Fault():
            return Refused(400, error.message, code=error.code, param=error.param)
        case QueueFull():
            wait, full = (
                error.retry_after,
                "Too many requests wait for this model. Try again after the time in Retry-After.",
            )
            return Refused(429, full, code="rate_limit_exceeded", type="requests", retry_after=wait)
        case Closed():
            return _unavailable("The engine is shutting down. Try again.")
        case web.HTTPException():
            return _refused_by_http(error)
    if not isinstance(error, RunFailed):  # which the batcher has logged, once for all of its batch
        log.error("a request failed", exc_info=error)
    sentence = "The engine failed on this request. Its log says why."
    return Refused(500, sentence, code="internal_error", type="server_error")


def _refused_by_http(error: web.HTTPException) -> Refused:
    match error:
        case web.HTTPRequestEntityTooLarge():
            return Refused(413, f"The body is over the limit of {MAX_BODY >> 20} MiB.", code="request_too_large")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Refused(405, f"That path takes {allowed} only.", code="method_not_supported")
        case web.HTTPNotFound():
            return Refused(404, "Nothing is served at that path. Try /v1/chat/completions.", code="unknown_url")
    return Refused(error.status, f"{error.reason}.")


def _unavailable(message: str) -> Refused:
    return Refused(503, message, code="engine_unavailable", type="server_error", retry_after=LOADING_RETRY_SECONDS)


# --- the process ----------------------------------------------------------------------------------------------------


def run(load: Callable[[Report], Engine], *, model: str, listener: Listener, exit_on_stdin_eof: bool = False) -> int:
    """Serves what `load` loads until SIGTERM or SIGINT; returns the exit status.

    `load` runs in a thread of its own and reports its phases with a fraction of one. When it raises, the last line on
    stderr is "altgate: " and one sentence that a client may be shown.
    """
    if exit_on_stdin_eof:
        threading.Thread(target=_exit_at_eof, args=(listener,), name="parent", daemon=True).start()
    try:
        asyncio.run(_serve(load, Served(model), listener))
    except LoadError as error:
        sys.stderr.write(f"altgate: {error}\n")
        return 1
    finally:
        listener.close()
    return 0


async def _serve(load: Callable[[Report], Engine], served: Served, listener: Listener) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    runner = web.AppRunner(
        served.application(), access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_SECONDS
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener.socket, backlog=BACKLOG).start()
        loading = _in_thread(lambda: load(served.report))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            served.engine = loading.result()
            log.info("ready: %s", served.model)
            await stopped
    finally:
        await runner.cleanup()
        if served.engine:
            await served.engine.close()


def _in_thread(load: Callable[[], Engine]) -> asyncio.Future[Engine]:
    """Loads in a daemon thread, which an exit need not wait for."""
    loaded: concurrent.futures.Future[Engine] = concurrent.futures.Future()

    def work() -> None:
        try:
            loaded.set_result(load())
        except BaseException as error:  # a panic of a Rust library is no Exception, and must be told too
            if not isinstance(error, LoadError):
                log.exception("the model could not be loaded")
            unknown = LoadError(f"the model could not be loaded ({type(error).__name__}); the engine's log says more")
            loaded.set_exception(error if isinstance(error, LoadError) else unknown)

    threading.Thread(target=work, name="load", daemon=True).start()
    return asyncio.wrap_future(loaded)


def _exit_at_eof(listener: Listener) -> None:
    """Ends the process when the parent, which holds the other end of our stdin, has gone; also while it loads."""
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    listener.close()
    os._exit(0)
