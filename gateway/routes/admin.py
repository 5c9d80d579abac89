"""GET and DELETE /admin/cache, for administrators' keys alone."""

import re
from typing import Any

from litestar import Request, Response, delete, get
from litestar.handlers import HTTPRouteHandler

from gateway import wire
from gateway.cache import Selection
from gateway.captioning import Captioner
from gateway.errors import InvalidRequest
from gateway.middleware import admin_only

PATHS = ["/admin/cache", "/v1/admin/cache"]
CHOICES = ("team", "model", "digest")
DIGEST = re.compile(r"[0-9a-f]{64}")


def routes(captioner: Captioner) -> list[HTTPRouteHandler]:
    """The handlers."""

    @get(PATHS, guards=[admin_only])
    async def show() -> Response[bytes]:
        """Tells what the cache has been good for, and what it holds."""
        return _json(await captioner.cache.report())

    @delete(PATHS, guards=[admin_only], status_code=200)
    async def clear(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Removes the answers of a team, of a model or of a digest; of what all of them mean when several are given."""
        return _json(await captioner.cache.remove(_selection(request, captioner)))

    return [show, clear]


def _selection(request: Request[Any, Any, Any], captioner: Captioner) -> Selection:
    given = dict(request.query_params)
    if not given or not given.keys() <= set(CHOICES) or len(given) < len(list(request.query_params.multi_items())):
        raise InvalidRequest(
            "Say what to remove with at least one of 'team', 'model' and 'digest', each once, and nothing else: "
            "DELETE /admin/cache?team=NAME.",
            code="invalid_value",
        )
    if "digest" in given and not DIGEST.fullmatch(given["digest"]):
        raise InvalidRequest(
            "Invalid value for 'digest': the 64 hex digits of a picture's or an answer's SHA-256 are wanted.",
            param="digest",
            code="invalid_value",
        )
    if "team" in given and captioner.share_across_teams:
        raise InvalidRequest(
            "All teams share their answers here ('cache.share_across_teams'), so none are a team's own. "
            "Name a 'model' or a 'digest'.",
            param="team",
            code="invalid_value",
        )
    model = given.get("model")
    known = captioner.models.get(model or "")
    return Selection(scope=given.get("team"), model=known.name if known else model, digest=given.get("digest"))


def _json(value: wire.CacheReport | wire.CacheRemoved) -> Response[bytes]:
    return Response(wire.encode(value), media_type="application/json")
