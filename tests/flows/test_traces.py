"""A trace goes through the gateway, from the client to the engine, and the gateway's part of it to a collector."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests import pictures
from tests.flows.shared import Fake, ask, clients, gateways
from tests.pictures import SCENES, data_url, message

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
PICTURE = [message(data_url(pictures.png(SCENES[14])), text="pr0mpt")]
FRESH = {"cache-control": "no-store", "traceparent": PARENT}


class Collector:
    """Takes spans by OTLP over HTTP, as a real one does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """One export."""
        assert request.content_type == "application/x-protobuf"
        export = ExportTraceServiceRequest.FromString(await request.read())
        self.spans += [span for each in export.resource_spans for scope in each.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Collector"]:
        """Serves until the block ends."""
        app = web.Application()
        app.router.add_post("/v1/traces", self.take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield self
        await runner.cleanup()


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector, which gateways are told of by the standard variables."""
    async with Collector().running() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield running


async def test_a_request_is_one_trace_from_client_to_engine(tmp_path: Path, collector: Collector) -> None:
    """The engine is told of the gateway's span, which is told of the client's; stages lie below; no prompt is told."""
    async with Fake().running() as engine, gateways(tmp_path, engine) as (server,), clients() as session:
        for stream in (False, True):
            await ask(session, server, FRESH, stream=stream, messages=PICTURE)
        async with asyncio.timeout(20):
            while len([span for span in collector.spans if span.name.startswith("POST")]) < 2:
                await asyncio.sleep(0.01)
    whole = [span for span in collector.spans if span.name == "POST /chat/completions"]

    assert {span.trace_id.hex() for span in whole} == {TRACE}
    assert {span.parent_span_id.hex() for span in whole} == {PARENT[36:52]}
    told = [request.headers["traceparent"] for request, _ in engine.requests]
    assert sorted(told) == sorted(f"00-{TRACE}-{span.span_id.hex()}-01" for span in whole)
    for span in whole:
        below = {each.name for each in collector.spans if each.parent_span_id == span.span_id}
        assert below >= {"parse", "fetch", "cache", "queue", "decode", "engine"}
    assert "pr0mpt" not in str(collector.spans)


async def test_what_is_left_is_sent_at_the_end(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that ends in order takes no span with it."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    async with Fake().running() as engine:
        async with gateways(tmp_path, engine) as (server,), clients() as session:
            await ask(session, server, messages=PICTURE)
        assert [span for span in collector.spans if span.name == "POST /chat/completions"]


async def test_a_collector_that_is_away_costs_nobody_anything(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are answered as ever."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with Fake().running() as engine, gateways(tmp_path, engine) as (server,), clients() as session:
        assert (await ask(session, server, messages=PICTURE)).status == 200


@pytest.mark.parametrize(("sent", "told"), [(PARENT, PARENT), (PARENT.upper(), None), (None, None)])
async def test_without_spans_a_clients_trace_is_handed_on(tmp_path: Path, sent: str | None, told: str | None) -> None:
    """As it came, and only what is one."""
    headers = {"traceparent": sent} if sent else {}
    async with Fake().running() as engine, gateways(tmp_path, engine) as (server,), clients() as session:
        for stream in (False, True):
            await ask(session, server, {"cache-control": "no-store"} | headers, stream=stream, messages=PICTURE)
        await ask(session, server, {"cache-control": "no-store"}, messages=PICTURE)

    assert [request.headers.get("traceparent") for request, _ in engine.requests] == [told, told, None]
