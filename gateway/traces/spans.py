"""The gateway's spans, through OpenTelemetry: one for a request, and below it one for each stage.

The standard variables say where they go (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin). Without one of those nothing of
this is imported, and a client's `traceparent` is handed on as it came.
"""

import logging
import time
from collections.abc import Callable, Mapping

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.record import Record
from gateway.traces.parent import NAME

log = logging.getLogger(__name__)

SERVER_ERRORS = 500
SERVICE = "altgate"  # unless OTEL_SERVICE_NAME says otherwise

_propagator = TraceContextTextMapPropagator()


class Spans:
    """Makes them. `route` names a request's route by its path."""

    def __init__(self, processor: SpanProcessor, route: Callable[[str], str], environ: Mapping[str, str]) -> None:
        name = environ.get("OTEL_SERVICE_NAME") or SERVICE
        resource = Resource.create({"service.name": name, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("altgate", __version__)
        self._route = route
        self._ahead = time.time_ns() - time.perf_counter_ns()

    def begin(self, record: Record, parent: str | None) -> str | None:
        """Begins the span of a request; what it is the parent of is to be told what this returns."""
        context = _propagator.extract({NAME: parent} if parent else {})
        route = self._route(record.path)
        span = self._tracer.start_span(
            f"{record.method} {route}", context, SpanKind.SERVER, start_time=self._time(record.started)
        )
        span.set_attributes({"http.request.method": record.method, "http.route": route, "altgate.id": record.id})
        record.span, record.moments = span, []
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(span))
        return carrier.get(NAME)

    def __call__(self, record: Record) -> None:
        """Ends it."""
        span = record.span
        if not isinstance(span, trace.Span):
            return
        context = trace.set_span_in_context(span)
        for stage, began, ended in record.moments or ():
            self._tracer.start_span(stage, context, start_time=self._time(began)).end(self._time(ended))
        span.set_attributes({name: value for name, value in _attributes(record).items() if value is not None})
        if record.status >= SERVER_ERRORS or (record.error is not None and record.streamed):
            span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(self._time(record.started + record.seconds))

    def close(self) -> None:
        """Sends what is left; takes as long as the exporter is patient."""
        self._provider.shutdown()

    def _time(self, moment: float) -> int:
        """A moment of `time.perf_counter`, in nanoseconds of Unix time."""
        return int(moment * 1e9) + self._ahead


def exporter() -> SpanProcessor:
    """What sends spans by OTLP over HTTP to where the standard variables say, aside, and drops what does not fit."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - costs a start
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


def _attributes(record: Record) -> Mapping[str, str | int | None]:
    usage = record.usage
    return {
        "http.response.status_code": record.status,
        "error.type": record.error,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
        "altgate.preset": record.preset,
        "altgate.cache": record.cache,
        "altgate.pictures": len(record.digests) or None,
        "altgate.key": record.caller.key_id or None,
        "altgate.team": record.caller.team or None,
    }
