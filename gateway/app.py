"""The composition root of the server: parts, routes, middleware, lifespan, read from top to bottom."""

import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import ASGIApp

from gateway.auth import Keyring
from gateway.config import Config
from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    PathNotFound,
    render,
)
from gateway.limits import Gate
from gateway.logs.line import RequestLines
from gateway.metrics.counts import Counts
from gateway.metrics.scrape import Scrape
from gateway.metrics.teller import Counting, Routes
from gateway.middleware import Admission, Authentication, Limits, Recording, record_of
from gateway.parts import Parts
from gateway.reload import KeySource
from gateway.routes import admin, chat, health, metrics, models, usage
from gateway.telling import Telling, each
from gateway.traces.opening import opened

log = logging.getLogger(__name__)

NOT_SERVED = {
    "completions": "Altgate answers chat completions alone. LlamaIndex: set is_chat_model=True.",
    "responses": "The Responses API is not served. AI SDK: use openai.chat('…'); n8n: switch the Responses API off.",
    "embeddings": "Altgate makes no embeddings; point your client's embeddings at another server.",
    "images": "Altgate describes pictures and makes none.",
    "audio": "Altgate neither hears nor speaks.",
}
RECALLED = 4  # the memory for answers is so many times that for requests to be known again, which comes on top
GARBAGE = 3_000  # objects that come to be before a search for cycles: after Python's 700 it took a tenth of the time


def create_app(config: Config, parts: Parts, key_file: KeySource) -> ASGIApp:
    """The server as one ASGI application."""
    captioner = parts.captioner
    keyring = Keyring(config.keys)
    gate = Gate(max_requests=config.server.max_requests, max_bytes=config.server.max_bytes_in_flight)
    counts, telling = Counts(), Telling()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with traces.running(), parts.running(), key_file.watched(keyring):
            for name in config.engines.preload:
                captioner.engines[captioner.models[name].name].want()
            gc.freeze()  # looking through all that stays anyway took 30 ms each time, and all requests waited for it
            gc.set_threshold(GARBAGE)
            try:
                yield
            finally:
                telling.end()

    served = Litestar(
        route_handlers=[
            chat.route(
                captioner,
                heartbeat=config.server.heartbeat,
                longest_wait=config.engines.start_timeout,
                max_body=config.server.max_body,
                max_recalled=config.cache.max_bytes // RECALLED,
            ),
            *models.routes(captioner),
            *admin.routes(captioner),
            *usage.routes(parts.ledger, captioner.models, currency=config.usage.currency, before=telling.tell),
            *health.routes(captioner, config.engines.preload),
            metrics.route(Scrape(counts, parts, gate, before=telling.tell)),
        ],
        exception_handlers={Exception: respond},
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=None,
    )
    app: ASGIApp = Admission(served, gate)
    app = Limits(app, parts.books)
    open_paths = health.OPEN_PATHS | metrics.PATHS if config.server.metrics == "open" else health.OPEN_PATHS
    app = Authentication(app, keyring, open_paths=open_paths)
    routes = Routes(route.path for route in served.routes)
    traces = opened(os.environ, routes.name)
    telling.tellers = [
        Counting(counts, routes),
        RequestLines(quiet=health.OPEN_PATHS | metrics.PATHS),
        parts.ledger.teller(routes.name, routes.name(chat.PATHS[0])),
        *map(each, filter(None, [traces.spans])),
    ]
    return Recording(app, telling.over, traces, keeps_prompts=config.log.prompts)


def respond(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Any error, Litestar's own included, in OpenAI's shape."""
    ours = _ours(request, error)
    record_of(request.scope).error = ours.code
    status, headers, body = render(ours)
    kind = headers.pop("content-type")
    if isinstance(error, MethodNotAllowedException):
        headers |= {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return Response(body, status_code=status, headers=headers, media_type=kind)


def _ours(request: Request[Any, Any, Any], error: Exception) -> GatewayError:
    if isinstance(error, GatewayError):
        if error.__cause__ is not None:
            log.info("%s: %s, because of %s", _id(request), error.code, _cause(error.__cause__))
        return error
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.scope["path"]
    match status:
        case 404:
            shown = path.encode("unicode_escape").decode()[:200]
            return PathNotFound(f"Nothing is served at '{shown}'. {_advice(path)}")
        case 405:
            return MethodNotAllowed(f"{request.method} is not allowed here. {_advice('')}")
        case 400:
            return InvalidRequest("The request could not be read. Check its headers and its body.")
    log.error("%s: failed", _id(request), exc_info=error)
    return InternalError("Something went wrong on our side. The log has the details under this request's id.")


def _cause(error: BaseException) -> str:
    """Its kind, and its text where that is ours: a library's may hold a client's URL, with the secrets in its query."""
    kind = type(error)
    ours = kind.__module__.partition(".")[0] == __package__
    return f"{kind.__name__} ({error})" if ours and str(error) else kind.__name__


def _id(request: Request[Any, Any, Any]) -> str:
    return record_of(request.scope).id


def _advice(path: str) -> str:
    resource = path.strip("/").removeprefix("v1/").partition("/")[0]
    return NOT_SERVED.get(resource, "POST /v1/chat/completions, GET /v1/models and GET /health are served.")
