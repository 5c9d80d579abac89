"""How soon vLLM stops working for a client that has left: `python -m bench.cancel`.

A tiny Gemma 3 is served by a real vLLM, one request at a time, behind the gateway. A client asks for many tokens and
closes its connection: while its request is worked on, whole or streamed, and while it waits in vLLM's own queue behind
another. What is measured is the time from there until vLLM's own metrics count it no more.
"""

import argparse
import http.client
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tests.engines.vllm import tiny
from tests.flows.raw import chat
from tests.services import Server, engine_socket, running_server

SETTINGS = """
[engines]
preload = []
[models.tiny]
engine = "vllm"
source = "{folder}"
max_model_len = 1024
args = {{ enforce-eager = true, dtype = "float32", max-num-seqs = 1, distributed-executor-backend = "uni" }}
"""
RUNNING, WAITING = "vllm:num_requests_running{", "vllm:num_requests_waiting{"


def main() -> None:
    """Prints a line for each way of leaving."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="clients that leave, each way (%(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gemma").mkdir()
        settings = SETTINGS.format(folder=tiny.gemma3(folder / "gemma"))
        environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
        with running_server(folder, settings=settings, environ=environ) as server:
            chat(server, model="tiny", max_tokens=8)  # loads it
            _print("whole", [_leave(server, stream=False) for _ in range(rounds)])
            _print("streamed", [_leave(server, stream=True) for _ in range(rounds)])
            _print("in the queue", [_leave_queue(server) for _ in range(rounds)])


def _print(way: str, seconds: list[float]) -> None:
    median, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
    print(f"{way:14} median {median:5.0f} ms, longest {worst:5.0f} ms of {len(seconds)}")


def _leave(server: Server, *, stream: bool) -> float:
    """Seconds until a request that is worked on is gone."""
    connection = _asking(server, stream=stream)
    _until(lambda: _count(server, RUNNING) == 1)
    return _gone(connection, lambda: _count(server, RUNNING) == 0)


def _leave_queue(server: Server) -> float:
    """Seconds until a request that waits behind another is gone."""
    first = _asking(server, stream=False)
    _until(lambda: _count(server, RUNNING) == 1)
    second = _asking(server, stream=False)
    _until(lambda: _count(server, WAITING) == 1)
    seconds = _gone(second, lambda: _count(server, WAITING) == 0)
    if _count(server, RUNNING) == 0:
        raise SystemExit("the first request ended too soon: this measured nothing")
    _gone(first, lambda: _count(server, RUNNING) == 0)
    return seconds


def _asking(server: Server, *, stream: bool) -> http.client.HTTPConnection:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Count as far as you can."}],
        "max_tokens": 980,
        "stream": stream,
        "logit_bias": {"1": -100, "6": -100},  # the tokens that end an answer
    }
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc)
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection


def _gone(connection: http.client.HTTPConnection, condition: Callable[[], bool]) -> float:
    connection.close()
    left = time.perf_counter()
    _until(condition)
    return time.perf_counter() - left


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("waited for two minutes in vain")
        time.sleep(0.005)


def _count(server: Server, metric: str) -> float:
    """A gauge of vLLM's own."""
    connection = http.client.HTTPConnection("engine")
    connection.sock = engine_socket(server)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


if __name__ == "__main__":
    main()
