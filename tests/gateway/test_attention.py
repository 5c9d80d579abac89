"""What becomes of a stream that its client does not read."""

import json
import socket

import pytest
from litestar import Litestar

from gateway import middleware
from gateway.config import ImagesConfig
from gateway.http1 import connection
from gateway.images.ingest import Ingest
from gateway.limits import Gate
from gateway.quota import LocalBooks
from gateway.routes import chat
from tests import pictures
from tests.gateway.http1.served import Client, serving, until
from tests.gateway.test_captioning import URL, Altgate, FakeEngine, Site, chunks


@pytest.mark.parametrize(("leaves", "limit"), [(False, 0.05), (True, 3600)])
async def test_a_client_that_does_not_read_frees_its_engine(
    leaves: bool, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as gone after a time, also while its connection stays open, and its engine's work ends with it."""
    monkeypatch.setattr(connection, "LONGEST_STALL", limit)
    engine = FakeEngine(streamed=chunks(*[{"content": "on and " * 2**14}] * 20))
    engine.go.clear()
    async with Ingest(Site(), ImagesConfig()) as ingest:
        captioner = Altgate(engine, ingest, "vllm").captioner
        route = chat.route(captioner, heartbeat=3600, longest_wait=60, max_body=2**20)
        app = Litestar([route], openapi_config=None)
        admitted = middleware.Admission(app, Gate(max_requests=1, max_bytes=2**20))
        limited = middleware.Limits(admitted, LocalBooks())
        async with serving(middleware.Recording(limited, lambda _: None)) as served:
            client = await served.client(limit=1)
            await ask(client)
            [ours] = served.connections
            for end in (client.writer, ours.transport):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            engine.go.set()
            await until(lambda: ours.is_full)
            if leaves:
                client.writer.transport.abort()
            await until(lambda: engine.closed)


async def ask(client: Client) -> None:
    """Asks for a stream and reads how it begins."""
    asked = {"model": "m", "stream": True, "messages": [pictures.message(URL)]}
    body = json.dumps(asked).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    await client.send(head + body)
    assert await client.reader.readexactly(12) == b"HTTP/1.1 200"
