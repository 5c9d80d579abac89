"""Whether there are spans, and what every request goes through in any case."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway.record import Record
from gateway.traces import parent

if TYPE_CHECKING:
    from gateway.traces.spans import Spans

log = logging.getLogger(__name__)

WHERE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Traces:
    """Hands on what trace a request belongs to; with the gateway's own part in it where there are `spans`."""

    def __init__(self, spans: "Spans | None") -> None:
        self.spans = spans

    def begin(self, record: Record, headers: parent.Headers) -> None:
        """A request begins."""
        above = parent.sent(headers)
        parent.carry(self.spans.begin(record, above) if self.spans is not None else above)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At the end, what is left is sent."""
        try:
            yield
        finally:
            if self.spans is not None:
                await asyncio.to_thread(self.spans.close)


NO_TRACES = Traces(None)


def opened(environ: Mapping[str, str], route: Callable[[str], str]) -> Traces:
    """With spans where the environment says where to send them to, and they can be made."""
    if not any(environ.get(name) for name in WHERE) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NO_TRACES
    try:
        from gateway.traces import spans  # noqa: PLC0415 - it takes long to import
    except ImportError:
        log.warning("%s is set, but OpenTelemetry is not installed: altgate[otel]. There are no traces.", WHERE[0])
        return NO_TRACES
    return Traces(spans.Spans(spans.exporter(), route, environ))
