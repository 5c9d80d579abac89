"""What becomes of a stream that its client does not read."""

import asyncio
import json
from typing import Any, Literal

import pytest
from litestar import Litestar
from litestar.types import HTTPDisconnectEvent, HTTPRequestEvent, Message

from gateway import middleware
from gateway.config import ImagesConfig
from gateway.images.ingest import Ingest
from gateway.limits import Gate
from gateway.quota import LocalBooks
from gateway.routes import chat
from tests import pictures
from tests.gateway.test_captioning import URL, Altgate, FakeEngine, Site, chunks

ASKED = {"model": "m", "stream": True, "messages": [pictures.message(URL)]}
Ending = Literal["stalls", "stalls and leaves"]


class Client:
    """Sends a request, takes the head and the first two events of its answer, and then no more."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._sent = False
        self._taken = 0
        self._stalled = asyncio.Event()

    async def receive(self) -> HTTPRequestEvent | HTTPDisconnectEvent:
        """Its request; and when it stalls, that it has left, if it does."""
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": json.dumps(ASKED).encode(), "more_body": False}
        await self._stalled.wait()
        if self._ending == "stalls":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, _: Message) -> None:
        """Takes it, or not."""
        self._taken += 1
        if self._taken > 3:
            self._stalled.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize(("ending", "limit"), [("stalls", 0.05), ("stalls and leaves", 3600)])
async def test_a_client_that_does_not_read_frees_its_engine(
    ending: Ending, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as gone after a time, also while its connection stays open, and its engine's work ends with it."""
    monkeypatch.setattr(middleware, "LONGEST_STALL", limit)
    engine, client = FakeEngine(streamed=chunks(*[{"content": "on and "}] * 10)), Client(ending)
    async with Ingest(Site(), ImagesConfig()) as ingest:
        captioner = Altgate(engine, ingest, "vllm").captioner
        app = Litestar([chat.route(captioner, heartbeat=3600, longest_wait=60)], openapi_config=None)
        admitted = middleware.Admission(app, Gate(max_requests=1, max_bytes=2**20))
        limited = middleware.Limits(admitted, LocalBooks())
        scope: Any = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/chat/completions", "root_path": "",
            "raw_path": b"/v1/chat/completions", "query_string": b"", "headers": [], "scheme": "http", "state": {},
        }  # fmt: skip
        async with asyncio.timeout(20):
            await middleware.Recording(middleware.Attention(limited), [])(scope, client.receive, client.send)

    assert engine.closed
