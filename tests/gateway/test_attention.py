"""What becomes of a stream that its client does not read."""

import asyncio
from typing import Literal

import pytest
from litestar import Litestar
from litestar.testing import RequestFactory
from litestar.types import HTTPDisconnectEvent, Message

from gateway import middleware
from gateway.config import ImagesConfig
from gateway.images.ingest import Ingest
from gateway.quota import LocalBooks
from gateway.routes import chat
from tests import pictures
from tests.gateway.test_captioning import URL, Altgate, FakeEngine, Site, chunks

ASKED = {"model": "m", "stream": True, "messages": [pictures.message(URL)]}
Ending = Literal["stalls", "stalls and leaves"]


class Client:
    """Takes the head and the first two events of an answer, and then no more."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._taken = 0
        self._stalled = asyncio.Event()

    async def receive(self) -> HTTPDisconnectEvent:
        """When it stalls, that it has left, if it does."""
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
        app = Litestar([chat.route(captioner, heartbeat=3600, body_timeout=60, longest_wait=60)], openapi_config=None)
        limited = middleware.Limits(app, LocalBooks())
        scope = RequestFactory(app).post("/v1/chat/completions", data=ASKED).scope
        async with asyncio.timeout(20):
            await middleware.Attention(limited)(scope, client.receive, client.send)

    assert engine.closed
