"""What the gateway costs in front of vLLM: `python -m bench.vllm_overhead`. It takes three minutes.

A tiny Gemma 3 is served by a real vLLM behind the gateway. The same requests, each with a picture of its own, go
through the gateway and straight to the same vLLM's socket, in turns, so that both meet the same machine. The cache is
off.

together    all share two processors, both of which the engine alone would keep busy
apart       the engine has the second processor to itself, as one on a GPU has its GPU; the gateway and the load share
            the first

throughput    16 requests at a time, whole answers; the ratio of the rates
first token   one stream at a time; the difference of the medians
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from tests.engines.vllm import tiny
from tests.services import Server, running_server

MODEL = "tiny-gemma"
SETTINGS = """
[engines]
preload = ["{model}"]
[models.{model}]
engine = "vllm"
source = "{folder}"
max_model_len = 1024
picture_rule = "square"
picture_size = 32
args = {{ enforce-eager = true, dtype = "float32", max-num-seqs = 16, distributed-executor-backend = "uni" }}
"""
AT_ONCE = 16
CORE, OTHER_CORE = 0, 1

Ask = Callable[[bytes], Awaitable[float]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each way (%(default)s)")
    parser.add_argument("--requests", type=int, default=96, help="requests in a turn (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer (%(default)s)")
    parser.add_argument("--side", type=int, default=480, help="height of the pictures, 4:3, in pixels (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gemma").mkdir()
        tiny.gemma3(folder / "gemma")
        for is_apart in (False, True):  # in this order: what is started later inherits its processors
            print("apart" if is_apart else "together")
            with _gateway(folder, is_apart=is_apart) as server:
                asyncio.run(_measure(server, options, is_apart=is_apart))


@contextmanager
def _gateway(folder: Path, *, is_apart: bool) -> Iterator[Server]:
    """A gateway with the model. vLLM has an executor of one process, for its usual ones wait by spinning, which starves
    all else on two processors; on one it has a single thread to compute with.
    """
    environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"} if is_apart else {}
    settings = SETTINGS.format(model=MODEL, folder=folder / "gemma")
    with running_server(folder, settings=settings, environ=environ) as server:
        yield server


def _part(server: Server) -> None:
    """Gives the engine a processor of its own, and the other to all else."""
    engine = {pid for root in server.engine_pids() for pid in _tree(root)}
    for pid in {os.getpid(), *_tree(server.process.pid)}:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {OTHER_CORE if pid in engine else CORE})


def _tree(pid: int) -> Iterator[int]:
    """A process and all that come from it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _tree(int(child))


async def _measure(server: Server, options: argparse.Namespace, *, is_apart: bool) -> None:
    await _until_ready(server)
    if is_apart:
        _part(server)
    through = aiohttp.ClientSession(f"{server.root}/v1/", headers={"cache-control": "no-store"})
    async with through, aiohttp.ClientSession("http://engine/v1/", connector=_connector(server)) as straight:
        bodies = _bodies(options.side)
        rates: dict[str, list[float]] = {"straight": [], "through": []}
        firsts: dict[str, list[float]] = {"straight": [], "through": []}
        for _ in range(options.rounds):
            for way, session in (("straight", straight), ("through", through)):
                rates[way].append(await _rate(session, bodies, options))
                firsts[way] += [await _first_token(session, next(bodies)) for _ in range(20)]
        _print(rates, firsts)


def _print(rates: dict[str, list[float]], firsts: dict[str, list[float]]) -> None:
    ratios = [ours / theirs for ours, theirs in zip(rates["through"], rates["straight"], strict=True)]
    for way in ("straight", "through"):
        first = statistics.median(firsts[way]) * 1000
        print(f"{way:10}{statistics.median(rates[way]):8.1f} requests/s   first token after {first:6.1f} ms")
    added = statistics.median(firsts["through"]) - statistics.median(firsts["straight"])
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"ratio of the rates, median of {len(ratios)} turns: {statistics.median(ratios):.3f} ({spread})")
    print(f"added to the first token: {added * 1000:.1f} ms")


async def _rate(session: aiohttp.ClientSession, bodies: Iterator[dict[str, Any]], options: argparse.Namespace) -> float:
    """Requests a second, `AT_ONCE` at a time."""
    fields = {"max_tokens": options.tokens}
    waiting = [json.dumps({**next(bodies), **fields}).encode() for _ in range(options.requests)]

    async def work() -> None:
        while waiting:
            async with session.post("chat/completions", data=waiting.pop(), headers=JSON) as response:
                answer = await response.json()
                assert response.ok, answer

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return float(options.requests / (time.perf_counter() - started))


JSON = {"content-type": "application/json"}


async def _first_token(session: aiohttp.ClientSession, body: dict[str, Any]) -> float:
    """Seconds to the first words of a stream."""
    data = json.dumps({**body, "max_tokens": 4, "stream": True}).encode()
    started = time.perf_counter()
    async with session.post("chat/completions", data=data, headers=JSON) as response:
        async for line in response.content:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                took = time.perf_counter() - started
                await response.read()
                return took
    raise SystemExit("a stream without words")


def _bodies(side: int) -> Iterator[dict[str, Any]]:
    """Requests without end, each with a picture that nobody has seen, a JPEG."""
    draw = random.Random(1)
    while True:
        small = Image.frombytes("RGB", (40, 30), draw.randbytes(3600))
        target = io.BytesIO()
        small.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
        url = f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
        yield {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": parts}]}


def _connector(server: Server) -> aiohttp.UnixConnector:
    for pid in server.engine_pids():
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        for word in words:
            if word.startswith("--uds="):
                return aiohttp.UnixConnector(word.removeprefix("--uds="), keepalive_timeout=2)
    raise SystemExit("the gateway has started no engine")


async def _until_ready(server: Server) -> None:
    async with aiohttp.ClientSession(server.root) as session:
        while True:
            async with session.get("/ready") as response:
                if response.ok:
                    return
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    main()
