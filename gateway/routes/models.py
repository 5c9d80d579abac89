"""GET /v1/models and /v1/models/{id}: what can be asked for, and what it is doing."""

import time
from collections.abc import Iterator

from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET

from gateway import routing, wire
from gateway.captioning import Captioner
from gateway.catalogue import Model
from gateway.engine import Status

READ = [HttpMethod.GET, HttpMethod.HEAD]


def routes(captioner: Captioner) -> list[HTTPRouteHandler]:
    """The handlers. Both answer from the configuration, whatever the engines are doing."""
    created = int(time.time())

    @route(["/v1/models", "/models"], http_method=READ)
    async def index() -> Response[bytes]:
        """Lists every model, and after each the presets that its name can choose."""
        listed = wire.ModelList(data=list(_entries(captioner, created)))
        return Response(wire.encode(listed), media_type="application/json")

    @route(["/v1/models/{name:path}", "/models/{name:path}"], http_method=READ)
    async def show(name: str) -> Response[bytes]:
        """Shows one model, by its name or by an alias."""
        asked = name.removeprefix("/")
        chosen = routing.choose(asked, captioner.models, captioner.presets)
        entry = _entry(asked, chosen.model, captioner.engines[chosen.model.name].status, created, chosen.preset)
        return Response(wire.encode(entry), media_type="application/json")

    return [index, show]


def _entries(captioner: Captioner, created: int) -> Iterator[wire.ModelEntry]:
    for model in dict.fromkeys(captioner.models[name].name for name in captioner.models):
        known = captioner.models[model]
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
