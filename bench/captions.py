"""Captions a second through gateway and BLIP engine: `python -m bench.captions --batch 8 32 --connections 1 16 64`.

The model has BLIP-base's dimensions and random weights; a caption takes 20 tokens. The gateway starts the engine, on a
GPU where there is one, and anew for each `--batch`, the most captions that it makes at once. Pictures are JPEG of 640
by 480, 128 of them in turn, and no answer is kept. Each connection sends its next request when it has its answer. The
first second of each line is not counted.
"""

import argparse
import asyncio
import base64
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.blip_decode import TOKENS, base_checkpoint
from bench.front.client import Client, percentile
from bench.handover import pictures, saved
from tests.flows.raw import send
from tests.services import Server, running_server

PICTURES = 128
SIZE = 640, 480
PATIENCE = 120.0  # seconds
WARM_UP = 1.0  # seconds
OK = 200  # status
SETTINGS = """
[engines]
preload = []
cold_start_wait = "5m"
[models.base]
engine = "blip"
source = "{folder}"
picture_size = 384
args = {{ max-batch = {batch}, dtype = "{dtype}" }}
"""


def main() -> None:
    """Prints a line for each number of connections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="captions at once (%(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="(%(default)s)")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each line (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / "checkpoint"
        base_checkpoint(checkpoint)
        requests = itertools.cycle([asked(picture) for picture in jpegs()])
        for batch in options.batch:
            settings = SETTINGS.format(folder=checkpoint, batch=batch, dtype=options.dtype)
            with running_server(Path(name), settings=settings) as server:
                measure(server, requests, batch, options.connections, options.seconds)


def measure(server: Server, requests: Iterator[bytes], batch: int, connections: list[int], seconds: float) -> None:
    """Prints the lines of one engine."""
    _, _, body = next(requests).partition(b"\r\n\r\n")
    answer = send(server, "POST", "/v1/chat/completions", body)  # loads it
    assert answer.status == OK, answer.body
    place = send(server, "GET", "/v1/models/base").json()["device"]
    for count in connections:
        rate, took = asyncio.run(load(server, requests, count, seconds))
        print(
            f"{place}, {batch:3} at once, {count:3} connections: {rate:7.1f} captions a second"
            f"  p50 {percentile(took, 0.5):6.1f} ms  p99 {percentile(took, 0.99):6.1f} ms",
            flush=True,
        )


async def load(server: Server, requests: Iterator[bytes], count: int, seconds: float) -> tuple[float, list[float]]:
    """Captions a second, and how long each took in seconds."""
    took: list[float] = []
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds
    port = int(server.root.rpartition(":")[2])

    async def connection() -> None:
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            status = await client.ask(next(requests), PATIENCE)
            assert status == OK, status
            if begin <= time.perf_counter() < end:
                took.append(time.perf_counter() - began)
        client.close()

    await asyncio.gather(*(connection() for _ in range(count)))
    return len(took) / seconds, took


def jpegs() -> list[bytes]:
    """The pictures' files."""
    write = saved("JPEG", quality=85)
    return [write(image) for image in itertools.islice(pictures(SIZE), PICTURES)]


def asked(picture: bytes) -> bytes:
    """The request for a picture's caption, as it goes over the wire."""
    url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    fields = {"model": "base", "max_tokens": TOKENS, "messages": [{"role": "user", "content": content}]}
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"cache-control: no-store\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main()
