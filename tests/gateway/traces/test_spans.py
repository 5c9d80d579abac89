"""A request becomes a span with its stages below it."""

import sys
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.auth import Caller
from gateway.record import Record
from gateway.traces.opening import opened
from gateway.traces.spans import Spans
from gateway.wire import Usage

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """Spans, and what was exported of them."""

    def __init__(self, **environ: str) -> None:
        self._exporter = InMemorySpanExporter()
        self.spans = Spans(SimpleSpanProcessor(self._exporter), lambda path: path.removeprefix("/v1"), environ)

    @property
    def finished(self) -> Sequence[ReadableSpan]:
        """Those that have ended, in that order."""
        return self._exporter.get_finished_spans()


def record() -> Record:
    """A request that has just come."""
    return Record(method="POST", path="/v1/chat/completions", caller=Caller(key_id="ci", team="web"), model="demo")


def test_a_request_and_its_stages_are_one_trace() -> None:
    """Each stage once for each time it was entered, inside the request's own time; a header in between ends none."""
    traced, request = Traced(), record()
    told = traced.spans.begin(request, PARENT)
    request.enter("parse")
    request.enter("engine")
    request.timing()
    request.enter("parse")
    request.usage, request.cache, request.status = Usage(7, 3, 10), "miss", 200
    request.close()
    traced.spans(request)

    *stages, whole = traced.finished
    assert [stage.name for stage in stages] == ["parse", "engine", "parse"]
    assert (whole.name, whole.kind) == ("POST /chat/completions", SpanKind.SERVER)
    assert whole.context and whole.parent  # noqa: PT018
    assert told == f"00-{PARENT[3:35]}-{whole.context.span_id:016x}-01"
    assert f"{whole.parent.span_id:016x}" == PARENT[36:52]
    assert {stage.parent.span_id for stage in stages if stage.parent} == {whole.context.span_id}
    times = [
        whole.start_time,
        *(time for stage in stages for time in (stage.start_time, stage.end_time)),
        whole.end_time,
    ]
    assert times == sorted(time or 0 for time in times)
    assert whole.attributes == {
        "http.request.method": "POST",
        "http.route": "/chat/completions",
        "http.response.status_code": 200,
        "altgate.id": request.id,
        "gen_ai.request.model": "demo",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "altgate.cache": "miss",
        "altgate.key": "ci",
        "altgate.team": "web",
    }


@pytest.mark.parametrize(
    ("status", "error", "streamed", "code"),
    [
        (200, None, False, StatusCode.UNSET),
        (400, "invalid_value", False, StatusCode.UNSET),
        (499, None, False, StatusCode.UNSET),
        (502, "engine_error", False, StatusCode.ERROR),
        (200, "engine_error", True, StatusCode.ERROR),
    ],
)
def test_failures_of_ours_are_errors(status: int, error: str | None, streamed: bool, code: StatusCode) -> None:
    """A client's are not, as OpenTelemetry's conventions have it."""
    traced, request = Traced(), record()
    traced.spans.begin(request, None)
    request.status, request.error, request.streamed = status, error, streamed
    request.close()
    traced.spans(request)

    (whole,) = traced.finished
    assert whole.status.status_code is code
    assert (whole.attributes or {}).get("error.type") == error


def test_who_is_not_sampled_is_not_told_of() -> None:
    """A client that keeps its trace to itself keeps ours as well, and its engines are told so."""
    traced, request = Traced(), record()

    told = traced.spans.begin(request, PARENT[:-1] + "0")
    request.enter("parse")
    request.close()
    traced.spans(request)

    assert told
    assert told.endswith("-00")
    assert not traced.finished


@pytest.mark.parametrize(("environ", "name"), [({}, "altgate"), ({"OTEL_SERVICE_NAME": "captions"}, "captions")])
def test_the_service_has_a_name(environ: dict[str, str], name: str) -> None:
    """Altgate's own, unless the standard variable gives another."""
    traced, request = Traced(**environ), record()
    traced.spans.begin(request, None)
    request.close()
    traced.spans(request)

    assert traced.finished[0].resource.attributes["service.name"] == name


def test_without_the_variables_there_are_no_spans() -> None:
    """Nothing of OpenTelemetry is looked for."""
    assert opened({}, str).spans is None
    assert opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, str).spans is None


def test_without_the_package_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It names what to install; the gateway serves all the same."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "gateway.traces.spans")
    monkeypatch.delattr("gateway.traces.spans", raising=False)

    assert opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, str).spans is None
    assert "altgate[otel]" in caplog.text
