"""What a request holds on to while its engine takes its time, and what it lets go of before."""

import asyncio
import gc
import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.types import HTTPDisconnectEvent, HTTPRequestEvent, Message

from gateway import middleware, wire
from gateway.auth import ANONYMOUS
from gateway.config import ImagesConfig
from gateway.http1.exchange import WATCH
from gateway.images.ingest import Encoded, Ingest
from gateway.limits import Gate
from gateway.quota import LocalBooks
from gateway.routes import chat
from tests import pictures
from tests.gateway.test_captioning import Altgate, FakeEngine, Site, answer, chunks

WRITTEN = pictures.data_url(pictures.png(pictures.SCENES[0]))
SCOPE: dict[str, Any] = {
    "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/chat/completions", "root_path": "",
    "raw_path": b"/v1/chat/completions", "query_string": b"", "headers": [], "scheme": "http",
    "extensions": {WATCH: lambda _: None},
}  # fmt: skip


class Client:
    """Sends a request with a picture in it, stays, and takes whatever comes."""

    def __init__(self, *, stream: bool) -> None:
        asked = {"model": "m", "stream": stream, "messages": [pictures.message(WRITTEN)]}
        self._body: bytes | None = json.dumps(asked).encode()

    async def receive(self) -> HTTPRequestEvent | HTTPDisconnectEvent:
        """Its request, once."""
        if self._body is None:
            await asyncio.Event().wait()
        body, self._body = self._body or b"", None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, _: Message) -> None:
        """Takes it."""


def pictures_as_written() -> int:
    """How many requests there are in which a picture still stands as its client wrote it."""
    gc.collect()
    requests = [each for each in gc.get_objects() if type(each) is wire.ChatRequest]
    return sum(part.image_url.url == WRITTEN for each in requests for _, part in wire.pictures_of(each))


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_picture_was_written_as_is_not_kept_for_the_answer(stream: bool) -> None:
    """Base64 of megabytes is let go of before the engine begins."""
    engine = FakeEngine(answer("a cat"), chunks({"content": "a cat"}))
    engine.there.clear()
    async with Ingest(Site(), ImagesConfig()) as ingest:
        route = chat.route(Altgate(engine, ingest, "vllm").captioner, heartbeat=60, longest_wait=60, max_body=2**20)
        admitted = middleware.Admission(Litestar([route], openapi_config=None), Gate(max_requests=1, max_bytes=2**20))
        client, app = (
            Client(stream=stream),
            middleware.Recording(middleware.Limits(admitted, LocalBooks()), lambda _: None),
        )
        work = asyncio.create_task(app({**SCOPE, "state": {}}, client.receive, client.send))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while not engine.waits:
                await asyncio.sleep(0.001)
        assert pictures_as_written() == 0
        engine.there.set()
        await work
    assert engine.asked


async def test_only_who_has_them_decoded_keeps_pictures() -> None:
    """An answer that was found needs none, and of many who share one, the first one's do."""
    engine = FakeEngine(answer("a cat"))
    engine.there.clear()
    async with Ingest(Site(), ImagesConfig()) as ingest:
        captioner = Altgate(engine, ingest, "vllm").captioner
        asked = wire.decode_request(json.dumps({"model": "m", "messages": [pictures.message(WRITTEN)]}).encode())
        jobs = [await captioner.prepare(asked, ANONYMOUS) for _ in range(3)]
        work = [asyncio.create_task(captioner.answer(job)) for job in jobs]
        async with asyncio.timeout(20):
            while not engine.waits or len(jobs[2].pictures):
                await asyncio.sleep(0.001)
        assert [len(job.pictures) for job in jobs] == [1, 0, 0]
        engine.there.set()
        await asyncio.gather(*work)
        found = await captioner.prepare(asked, ANONYMOUS)
        assert (found.record.cache, found.pictures) == ("hit", ())
        assert (await captioner.answer(found)).choices[0].message.content == "a cat"
    assert all(isinstance(picture, Encoded) for picture in jobs[0].pictures)
