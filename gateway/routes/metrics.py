"""GET /metrics, for Prometheus."""

from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.auth import ANONYMOUS
from gateway.metrics.exposition import CONTENT_TYPE
from gateway.metrics.scrape import Scrape
from gateway.middleware import admin_only, caller_of

PATHS = frozenset({"/metrics"})


def route(scrape: Scrape) -> HTTPRouteHandler:
    """The handler."""

    @get([*PATHS])
    async def show(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Tells all metrics.

        Whoever comes without a key is let in: where keys are needed, nobody comes here without one unless `/metrics` is
        open.
        """
        if caller_of(request.scope) is not ANONYMOUS:
            admin_only(request, request.route_handler)
        return Response(await scrape.exposed(), headers={"content-type": CONTENT_TYPE})

    return show
