"""GET /v1/models and /v1/models/{id}: what can be asked for, and what it is doing."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from litestar import HttpMethod, Request, Response, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import UNSET

from gateway import routing, wire
from gateway.captioning import Captioner
from gateway.catalogue import Model
from gateway.engine import Status
from gateway.middleware import caller_of

READ = [HttpMethod.GET, HttpMethod.HEAD]


def routes(captioner: Captioner) -> list[HTTPRouteHandler]:
    """The handlers. Both answer from the configuration, whatever the engines are doing."""
    created = int(time.time())

    @route(["/v1/models", "/models"], http_method=READ)
    async def index(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Lists every model that the caller may use, and after each the presets that its name can choose."""
        models = caller_of(request.scope).visible(captioner.models)
        listed = wire.ModelList(data=list(_entries(captioner, models, created)))
        return Response(wire.encode(listed), media_type="application/json")

    @route(["/v1/models/{name:path}", "/models/{name:path}"], http_method=READ)
    async def show(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        """Shows one model, by its name or by an alias."""
        asked = name.removeprefix("/")
        models = caller_of(request.scope).visible(captioner.models)
        chosen = routing.choose(asked, models, captioner.presets)
        entry = _entry(asked, chosen.model, captioner.engines[chosen.model.name].status, created, chosen.preset)
        return Response(wire.encode(entry), media_type="application/json")

    return [index, show]


def _entries(captioner: Captioner, models: Mapping[str, Model], created: int) -> Iterator[wire.ModelEntry]:
    for model in dict.fromkeys(models[name].name for name in models):
        known = models[model]
        status = captioner.engines[model].status
        yield _entry(model, known, status, created, None)
        for preset in captioner.presets:
            yield _entry(f"{model}{routing.PRESET_MARK}{preset}", known, status, created, preset)


def _entry(name: str, model: Model, status: Status, created: int, preset: str | None) -> wire.ModelEntry:
    return wire.ModelEntry(
        id=name,
        created=created,
        max_model_len=UNSET if model.max_model_len is None else model.max_model_len,
        engine=model.engine,
        status=status.state,
        phase=status.phase,
        progress=status.progress,
        device=status.device,
        reason=status.reason,
        licence=model.licence,
        description=model.description,
        aliases=list(model.aliases) if preset is None else [],
        preset=preset,
    )
