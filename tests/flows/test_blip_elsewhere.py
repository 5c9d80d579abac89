"""The BLIP engine as a server of its own, two of them behind a gateway that has started neither."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from engines.demo import scenes
from tests import pictures
from tests.flows.raw import chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server, wait_for_log

CHECKPOINT = Path(__file__).parents[2] / "engines/demo/checkpoint"
Engines = dict[str, "subprocess.Popen[bytes]"]


@contextmanager
def engine(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """An engine on that port, once it is ready."""
    options = [f"--source={CHECKPOINT}", "--model=demo", f"--port={port}", "--dtype=float32", "--threads=1"]
    process = subprocess.Popen([sys.executable, "-m", "engines.blip", *options], stderr=subprocess.DEVNULL)
    try:
        _until_ready(port)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def ports() -> list[int]:
    """Two that are free."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    free: list[int] = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return free


def test_two_engines_elsewhere_serve_one_model(tmp_path: Path, ports: list[int]) -> None:
    """Whole and streamed; one that is killed is made up for by the other, and used again when it is back."""
    urls = [f"http://127.0.0.1:{port}/v1" for port in ports]
    settings = f'[engines]\npreload = []\n[models.away]\nengine = "remote"\nsource = "demo"\nurls = {urls}\n'
    with engine(ports[0]) as first, engine(ports[1]) as second, running_server(tmp_path, settings=settings) as server:
        assert _captions(server, range(4)) == _expected(range(4))
        streamed = chat(server, **_asked(0), stream=True)
        assert b'"finish_reason":"stop"' in streamed.body

        first.kill()
        assert _captions(server, range(4, 12)) == _expected(range(4, 12))

        with engine(ports[0]):
            wait_for_log(server, f"{urls[0]} can be used", times=2)
            second.send_signal(signal.SIGKILL)
            assert _captions(server, range(12, 16)) == _expected(range(12, 16))
            assert send(server, "GET", "/v1/models/away").json()["status"] == "ready"


def _asked(number: int) -> dict[str, Any]:
    return {"model": "away", "messages": [message(data_url(pictures.png(SCENES[number])))]}


def _captions(server: Server, numbers: range) -> list[str]:
    return [chat(server, **_asked(number)).json()["choices"][0]["message"]["content"] for number in numbers]


def _expected(numbers: range) -> list[str]:
    return [scenes.caption(SCENES[number]) for number in numbers]


def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                return
        except (URLError, ConnectionError):  # loading, or not there yet
            assert time.monotonic() < deadline
            time.sleep(0.05)
