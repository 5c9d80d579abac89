"""A web server that misbehaves as told, a listener that nobody may reach, and pictures made byte by byte."""

import asyncio
import os
import signal
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config import ImagesConfig
from gateway.images.decoder import Decoder
from gateway.images.fetch import Fetcher
from gateway.images.ingest import Ingest
from gateway.images.pool import Pool
from gateway.values import Bytes, Seconds

from . import made
from .ingests import CONFIG, PICTURE, FakeFetcher
from .pools import MEMORY, Sent

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
MakePng = Callable[..., bytes]


class Origin:
    """An HTTP server on one loopback address that answers each path with raw bytes or by a script.

    `heads` are the requests' heads as they came, `connections` how often somebody connected. A connection serves one
    request, or many if it `keeps_alive`.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = 0
        self.answers: dict[str, Answer] = {}
        self.heads: list[str] = []
        self.connections = 0
        self.keeps_alive = False
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str) -> str:
        """The URL of a path on this server."""
        return f"http://{self.host}:{self.port}{path}"

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Origin"]:
        """Serves until the block ends; scripts still running are cancelled."""
        server = await asyncio.start_server(self._accept, self.host, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.get_running_loop().create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
            while self.keeps_alive:
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as it may
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        self.heads.append(head)
        answer = self.answers[head.split(" ")[1].partition("?")[0]]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """A server that the fetcher under test may reach."""
    async with Origin("127.0.0.1").running() as running:
        yield running


@pytest.fixture
async def forbidden() -> AsyncIterator[Origin]:
    """A server on an address that is not opened: whatever happens, nobody may connect to it."""
    async with Origin("127.0.0.2").running() as running:
        running.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
        yield running
        assert running.connections == 0, "an address outside the allowed networks was dialled"


@pytest.fixture
def config(origin: Origin, forbidden: Origin) -> ImagesConfig:
    """Opens the origin's address alone, but both servers' ports."""
    return ImagesConfig(
        allowed_networks=("127.0.0.1/32",),
        allowed_ports=tuple({80, 443, origin.port, forbidden.port}),  # on two addresses the same one may be free
        max_bytes=Bytes(64 * 2**10),
        fetch_timeout=Seconds(20),
        connect_timeout=Seconds(1),
    )


@pytest.fixture
def make_png() -> MakePng:
    """Builds a PNG from its header fields, its rows of raw samples and further chunks."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def make(
        size: tuple[int, int], *, depth: int, color: int, rows: list[bytes], chunks: Sequence[tuple[bytes, bytes]] = ()
    ) -> bytes:
        return b"".join(
            (
                b"\x89PNG\r\n\x1a\n",
                chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)),
                *(chunk(name, data) for name, data in chunks),
                chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
                chunk(b"IEND", b""),
            )
        )

    return make


@pytest.fixture
async def fetcher(config: ImagesConfig) -> AsyncIterator[Fetcher]:
    """A fetcher that may reach the origin and nothing else on loopback."""
    async with Fetcher(config) as fetcher:
        yield fetcher


@pytest.fixture
async def two() -> AsyncIterator[Pool]:
    """A pool with two workers at work at most."""
    async with Pool(made.DEFAULT, most_memory=MEMORY, workers=2) as running:
        yield running


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What is sent from now on."""
    noted = Sent()
    send = Decoder.send

    def noting(worker: Decoder, *arguments: Any) -> None:
        if noted.holds:
            os.kill(worker.pid, signal.SIGSTOP)
        send(worker, *arguments)
        noted.append(worker.pid)

    monkeypatch.setattr(Decoder, "send", noting)
    return noted


@pytest.fixture
def web() -> FakeFetcher:
    """A web with one picture in it."""
    return FakeFetcher(PICTURE)


@pytest.fixture
async def ingest(web: FakeFetcher) -> AsyncIterator[Ingest]:
    """An ingest over that web."""
    async with Ingest(web, CONFIG, workers=1) as running:
        yield running
