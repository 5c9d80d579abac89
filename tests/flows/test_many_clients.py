"""Many clients at once, and clients that leave."""

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import pictures
from tests.flows.raw import chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server, wait_for_log

Known = list[tuple[bytes, str]]


def test_two_hundred_at_once_each_get_their_own_caption(server: Server, known: Known) -> None:
    """No picture goes astray: two hundred requests together, streamed and whole, each answered about its own."""
    asked = [(*known[turn % len(known)], turn) for turn in range(200)]

    def ask(png: bytes, turn: int) -> str:
        answer = chat(
            server,
            {"cache-control": "no-store"},
            messages=[message(data_url(png), text=f"request {turn}")],
            stream=turn % 2 == 0,
        )
        assert answer.status == 200, answer.body
        return _words(answer.body) if turn % 2 == 0 else answer.json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(200) as threads:
        captions = list(threads.map(lambda one: ask(one[0], one[2]), asked))

    assert captions == [caption for _, caption, _ in asked]


def _words(body: bytes) -> str:
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event.startswith(b"data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_more_than_the_limit_is_refused_with_a_time_to_come_back(tmp_path: Path) -> None:
    """Requests over the limit get 429 at once, before their bodies are read."""
    with running_server(tmp_path, settings="[server]\nmax_requests = 1\n[engines]\npreload = []") as small:
        with half_sent(small):
            refused = chat(small)

        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["retry-after-ms"]) >= 1
        assert send(small, "GET", "/health").status == 200


def half_sent(server: Server) -> socket.socket:
    """A connection with a request whose body does not end, once the server has begun to read it."""
    address = urlsplit(server.root)
    connection = socket.create_connection((address.hostname, address.port))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
    connection.sendall(head)
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_work_along(tmp_path: Path, stream: bool) -> None:
    """Its request ends when it goes, streaming or not, though the engine never answers; the next one is served."""
    with running_server(tmp_path) as running:
        assert chat(running, messages=[message(data_url(pictures.png(SCENES[0])))]).status == 200
        [engine] = running.engine_pids()
        os.kill(engine, signal.SIGSTOP)
        for _ in range(3):
            ask_and_leave(running, stream=stream)
        wait_for_log(running, "POST /v1/chat/completions 499", times=3)
        os.kill(engine, signal.SIGCONT)

        assert chat(running, messages=[message(data_url(pictures.png(SCENES[1])))]).status == 200


def ask_and_leave(server: Server, *, stream: bool) -> None:
    """Sends a whole request about a picture that is in no cache, and closes the connection without reading."""
    asked = {"model": "demo", "stream": stream, "messages": [message(data_url(pictures.png(SCENES[2])))]}
    body = json.dumps(asked).encode()
    address = urlsplit(server.root)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
