"""GET /admin/usage, for administrators' keys alone."""

from collections.abc import Callable, Mapping
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec.structs import replace

from gateway import wire
from gateway.catalogue import Model
from gateway.errors import InvalidRequest, UsageUnavailable
from gateway.middleware import admin_only
from gateway.usage import report
from gateway.usage.counts import Query
from gateway.usage.ledger import Ledger
from gateway.usage.store import MAX_ROWS, TooMuch, Unkept

PATHS = ["/admin/usage", "/v1/admin/usage"]


def routes(
    ledger: Ledger, models: Mapping[str, Model], *, currency: str | None, before: Callable[[], None]
) -> list[HTTPRouteHandler]:
    """The handlers; `before` is called before the ledger is read."""

    @get(PATHS, guards=[admin_only])
    async def show(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Tells what was used, and what it cost."""
        asked = _query(request, ledger.today, models)
        before()
        try:
            groups = await ledger.read(asked)
        except Unkept:
            raise UsageUnavailable("Usage cannot be read now. Nothing is lost of it. Try again.") from None
        except TooMuch:
            raise InvalidRequest(
                f"That is more than {MAX_ROWS:,} rows. Ask for fewer days, or tell less apart with 'by'.",
                param="by",
                code="invalid_value",
            ) from None
        told = report.report(asked, groups, currency=currency, kept=ledger.kept)
        return Response(wire.encode(told), media_type="application/json")

    return [show]


def _query(request: Request[Any, Any, Any], today: str, models: Mapping[str, Model]) -> Query:
    given = dict(request.query_params)
    if twice := next((name for name in given if len(request.query_params.getall(name)) > 1), None):
        raise InvalidRequest(f"'{twice[:40]}' is given twice. Give it once.", param=twice[:40], code="invalid_value")
    asked = report.query(given, today=today)
    known = models.get(asked.model or "")
    return replace(asked, model=known.name) if known is not None else asked
