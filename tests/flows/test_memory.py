"""What requests may take together, as a client sees it."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import pictures
from tests.flows.raw import Answer, chat
from tests.pictures import SCENES, message
from tests.services import Server, running_server

PICTURE = pictures.png(SCENES[100])


@pytest.fixture
def site() -> Iterator[str]:
    """A site with that picture; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}/a.png"
        http_server.shutdown()


def begun(server: Server, size: int) -> socket.socket:
    """A request of which so many bytes of the body have arrived, and no more do."""
    target = urlsplit(server.root)
    assert target.hostname
    assert target.port
    connection = socket.create_connection((target.hostname, target.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {size + 1}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + b" " * size)
    return connection


def until(server: Server, site: str, status: int) -> Answer:
    """The answer about the site's picture, once it has that status."""
    deadline = time.monotonic() + 30
    while (answer := chat(server, {"cache-control": "no-store"}, messages=[message(site)])).status != status:
        assert time.monotonic() < deadline, answer.body
    return answer


def test_what_is_fetched_counts_as_what_is_sent(tmp_path: Path, site: str) -> None:
    """A few words that name a large file take as much memory as the file: with the bodies of others, it has to fit."""
    settings = (
        f"[server]\nmax_bytes_in_flight = {len(PICTURE) + 1000}\n"
        f'[images]\nallowed_networks = ["127.0.0.0/8"]\nallowed_ports = [{urlsplit(site).port}]\n'
    )
    with running_server(tmp_path, settings=settings) as server:
        until(server, site, 200)
        with begun(server, 900):
            refused = until(server, site, 429)
            assert "fill the memory set aside" in refused.error["message"]
        until(server, site, 200)


ARENA = 64 * 2**20  # bytes that glibc sets aside for an arena, and between the places where one may begin


def arenas(server: Server) -> int:
    """How many of them the server has beside the first one: what is in use of each, and behind it what is not yet."""
    lines = [line.split() for line in Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()]
    spans = [(_span(words[0]), words[1]) for words in lines if len(words) == 5]  # of no file
    return sum(
        start % ARENA == 0 and ((middle, start + ARENA), "---p") == behind
        for ((start, middle), _), behind in pairwise(spans)
    )


def _span(written: str) -> tuple[int, int]:
    start, _, end = written.partition("-")
    return int(start, 16), int(end, 16)


def test_threads_share_the_memory_of_all(server: Server) -> None:
    """Each with memory of its own would keep what large pictures leave behind, for ever."""
    large = [pictures.data_url(PICTURE + bytes([number]) * 600_000) for number in range(4)]
    with ThreadPoolExecutor(len(large)) as threads:
        answers = [*threads.map(lambda url: chat(server, messages=[message(url)]), large)]
    assert [answer.status for answer in answers] == [200] * len(large)
    assert arenas(server) == 0
