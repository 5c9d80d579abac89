"""More than there is room for: `python -m bench.front.overload [--picture KB] [--seconds N]`.

An engine elsewhere with a known capacity behind a gateway that lets as many requests in as keep it busy. Requests come
at their time, whether or not those before them were answered, at so many times the capacity; none is in a cache. The
gateway has a core of its own. The last columns are what it had of a core, and for how much of the time it had to wait
for one: where that is not next to nothing, others are at work on the machine, and latencies say little. Peak is the
best rate of good answers at up to the capacity itself.
"""

import argparse
import asyncio
import base64
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server

import uvloop
from PIL import Image

from bench.front.client import Pool, Told, percentile
from tests import pictures

PLACES, SERVICE = 10, 0.1  # of the engine; seconds
CAPACITY = PLACES / SERVICE  # requests a second
MULTIPLES = (0.9, 1.0, 2.0, 5.0, 10.0)
SETTINGS = """
[server]
max_requests = {admitted}
[images]
handover = "original"
[engines]
preload = []
[models.m]
engine = "remote"
urls = ["http://127.0.0.1:{port}/v1"]
"""
OK, REFUSED = 200, 429  # statuses
NUMBER = b'00000000"}]}]}'
numbers = itertools.count()


def main() -> None:
    """Prints a line for each multiple of the capacity."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=int, default=0, help="kilobytes of picture in each request")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each rate is kept up")
    parser.add_argument("--admitted", type=int, default=2 * PLACES, help="server.max_requests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, gateway(Path(name), options.admitted) as (port, process):
        uvloop.run(_run(port, process.pid, asked(options.picture), options.seconds))


@contextmanager
def gateway(folder: Path, admitted: int, service: float = SERVICE) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """A gateway on the first core, with the engine behind it on the second, once both listen; its port."""
    port = free_port()
    engine = [sys.executable, "-m", "bench.front.engine", str(port), str(PLACES), str(service)]
    (folder / "altgate.toml").write_text(SETTINGS.format(admitted=admitted, port=port))
    serve = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0", "--config", "altgate.toml"]
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109 - as text
    with (folder / "log").open("w") as log:
        behind = subprocess.Popen(on_core(1, engine), stderr=log)
        process = subprocess.Popen(
            on_core(0, serve), stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environ
        )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield next(int(found[1]) for line in lines if (found := re.search(r"Base URL: .*:(\d+)/", line))), process
    finally:
        for each in (process, behind):
            each.terminate()
            each.wait()


def on_core(core: int, command: list[str]) -> list[str]:
    """The command, kept to that core."""
    return ["taskset", "--cpu-list", str(core % (os.cpu_count() or 1)), *command]


def free_port() -> int:
    """A port that nobody listens on now."""
    with create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _run(port: int, pid: int, body: bytes, seconds: float) -> None:
    pool = Pool(port)
    await offered(pool, body, CAPACITY / 2, 2.0)
    peak = 0.0
    print(f"a capacity of {CAPACITY:.0f} a second, bodies of {len(body):,} bytes")
    print("  load  good/s  of peak   p50 ms   p99 ms | refused/s   p50 ms   p99 ms | lost    MiB |  used waited")
    for multiple in MULTIPLES:
        used, waited = processor(pid)
        told = await offered(pool, body, multiple * CAPACITY, seconds)
        used, waited = (now - before for now, before in zip(processor(pid), (used, waited), strict=True))
        good, refused = ([each.seconds for each in told if each.status == status] for status in (OK, REFUSED))
        peak = max(peak, len(good)) if multiple <= 1 else peak
        print(
            f"{multiple:5.1f}x {len(good) / seconds:7.1f} {len(good) / peak:8.3f} {percentile(good, 0.5):8.1f} "
            f"{percentile(good, 0.99):8.1f} | {len(refused) / seconds:9.1f} {percentile(refused, 0.5):8.1f} "
            f"{percentile(refused, 0.99):8.1f} | {len(told) - len(good) - len(refused):4} {memory(pid):6.1f} | "
            f"{used / seconds:5.2f} {waited / seconds:6.2f}"
        )
    pool.close()


async def offered(pool: Pool, body: bytes, rate: float, seconds: float) -> list[Told]:
    """What came back of so many requests a second, at times of their own, each different from all before."""
    chance, start, at, tasks = random.Random(1), time.perf_counter(), 0.0, []
    while (at := at + chance.expovariate(rate)) < seconds:
        if (wait := start + at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(pool.ask(request(body))))
    return [*await asyncio.gather(*tasks)]


def request(body: bytes) -> bytes:
    """A request as it goes over the wire, with a number of its own."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body[: -len(NUMBER)] + b'%08d"}]}]}' % next(numbers)


def asked(kilobytes: int) -> bytes:
    """The body of a request about a picture of about so many kilobytes, or without one."""
    parts: list[dict[str, object]] = []
    if kilobytes:
        parts.append({"type": "image_url", "image_url": {"url": picture(kilobytes * 1000)}})
    parts.append({"type": "text", "text": "request 00000000"})
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}, separators=(",", ":")).encode()
    assert body.endswith(NUMBER)
    return body


def picture(size: int) -> str:
    """About so many bytes of PNG, which is grain and cannot be compressed."""
    side = int((size / 3) ** 0.5)
    noise = Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side))
    return f"data:image/png;base64,{base64.b64encode(pictures.encoded(noise, compress_level=0)).decode()}"


def processor(pid: int) -> tuple[float, float]:
    """The seconds that a process has had a core, and those in which it wanted one and had to wait."""
    threads = [thread.joinpath("schedstat").read_text().split() for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(thread[0]) for thread in threads) / 1e9, sum(int(thread[1]) for thread in threads) / 1e9


def memory(pid: int) -> float:
    """What a process has in memory, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main()
