"""SIGTERM: what is under way is finished, nothing new is begun, and the program ends in time."""

import asyncio
import http.client
import json
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.gateway.http1.served import Client, post, until
from tests.gateway.remote.servers import Fake
from tests.services import Server, running_server

LIMIT = 2.0  # seconds
SETTINGS = """
[server]
shutdown_timeout = "{limit:.0f}s"
[engines]
preload = []
[models.theirs]
engine = "remote"
urls = ["{url}"]
"""
IDLE = "[engines]\npreload = []"
READY = b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"


def asked(text: str, *, stream: bool = False) -> bytes:
    """A request to the model elsewhere, as it goes over the wire."""
    body = {"model": "theirs", "stream": stream, "messages": [{"role": "user", "content": text}]}
    data = json.dumps(body).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data) + data


@asynccontextmanager
async def connected(server: Server, number: int) -> AsyncIterator[list[Client]]:
    """So many connections to the gateway, until the context ends."""
    address = urlsplit(server.root)
    clients = [Client(*await asyncio.open_connection(address.hostname, address.port)) for _ in range(number)]
    try:
        yield clients
    finally:
        for client in clients:
            client.writer.close()


async def test_what_is_under_way_is_finished_and_nothing_begun(tmp_path: Path) -> None:
    """A whole answer and a stream come to their end, half a body is waited for within the limit and then told why, half
    a head and idle connections are closed; it is not ready from the first moment on; and its end is no failure.
    """
    async with Fake().running() as fake:
        fake.always = fake.waits
        settings = SETTINGS.format(limit=LIMIT, url=fake.url)
        with running_server(tmp_path, settings=settings) as server:
            async with connected(server, 6) as clients:
                took = await ended_amid(server, fake, *clients)
            assert "Traceback" not in server.log.read_text()

    assert LIMIT <= took < LIMIT + 2


async def ended_amid(
    server: Server, fake: Fake, whole: Client, stream: Client, half: Client, begun: Client, idle: Client, recent: Client
) -> float:
    """The seconds that it takes to end with each of them in a state of its own."""
    await whole.send(asked("whole"))
    await stream.send(asked("stream", stream=True))
    await half.send(post(1000).replace(b"/a", b"/v1/chat/completions") + b"{")
    await begun.send(READY[:10])
    await until(lambda: len(fake.requests) == 2)
    assert (await recent.ask(READY))[0] == 200
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)

    await refused(server)
    unready = await recent.ask(READY)
    assert (unready[0], unready[1]["connection"]) == (503, "close")
    assert await idle.rest() == await begun.rest() == b""
    fake.go.set()
    status, headers, told = await whole.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert told["choices"][0]["message"]["content"] == "a cat"
    assert (await stream.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b"shutting down" in (await half.rest())
    assert await asyncio.to_thread(server.process.wait, 30) == 0
    return time.monotonic() - began


async def test_what_is_broken_off_at_the_end_is_told_of(tmp_path: Path) -> None:
    """Who outlasts the limit has an answer that says so, and each has its line in the log and is counted as usage."""
    usage = tmp_path / "usage.sqlite"
    async with Fake().running() as fake:
        fake.always = fake.waits
        settings = SETTINGS.format(limit=1, url=fake.url) + f'[usage]\npath = "{usage}"\n'
        with running_server(tmp_path, settings=settings) as server:
            async with connected(server, 8) as clients:
                for number, client in enumerate(clients):
                    await client.send(asked(f"question {number}"))
                await until(lambda: len(fake.requests) == len(clients))
                server.process.send_signal(signal.SIGTERM)
                answers = [await client.answer() for client in clients]
                assert await asyncio.to_thread(server.process.wait, 30) == 0
            log = server.log.read_text()

    assert {status for status, _, _ in answers} == {503}
    assert all(log.count(f'"id":"{headers["x-request-id"]}"') == 1 for _, headers, _ in answers)
    with closing(sqlite3.connect(usage)) as database:
        assert database.execute("SELECT SUM(failed) FROM counts").fetchone() == (8,)


async def refused(server: Server) -> None:
    """Returns when nobody can connect any more."""
    while True:
        try:
            async with connected(server, 1):
                pass
        except ConnectionRefusedError:
            return
        await asyncio.sleep(0.01)


async def test_a_server_with_nothing_to_do_ends_at_once(tmp_path: Path) -> None:
    """However many are connected, and at Ctrl-C too."""
    with running_server(tmp_path, settings=IDLE) as server:
        async with connected(server, 50) as clients:
            assert all([(await client.ask(READY))[0] == 200 for client in clients])
            began = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            assert [await client.rest() for client in clients] == [b""] * 50
            assert await asyncio.to_thread(server.process.wait, 30) == 0
            took = time.monotonic() - began

    assert took < 3


class Load:
    """Clients that ask without a pause, and connect again as often as nobody listens, but never ask twice."""

    def __init__(self, server: Server) -> None:
        self._address = urlsplit(server.root)
        self._ending = threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    @contextmanager
    def running(self, clients: int) -> Iterator[None]:
        """So many clients, until the context ends."""
        threads = [threading.Thread(target=self._ask_on) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join()

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection(self._address.netloc, timeout=30)
        while not self._ending.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                time.sleep(0.01)
                continue
            self._ask(connection)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("GET", "/v1/models")
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
            connection.close()
            return
        if response.status == 200:
            self.answered += 1
        else:
            self.failures.append(str(response.status))


def answered(load: Load, more: int) -> None:
    """Returns when so many more were answered."""
    goal = load.answered + more
    while load.answered < goal:
        assert not load.failures, load.failures
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_under_load_fails_no_request(tmp_path: Path, workers: int) -> None:
    """The next one listens at the same address while clients go on asking; each request that was sent is answered."""
    settings = f"[server]\nworkers = {workers}\n{IDLE}"
    with running_server(tmp_path, settings=settings) as first:
        load, port = Load(first), urlsplit(first.root).port
        with load.running(clients=8):
            answered(load, 200)
            first.process.send_signal(signal.SIGTERM)
            first.process.wait(30)
            with running_server(tmp_path, settings=settings, port=port or 0):
                answered(load, 200)

    assert load.failures == []
