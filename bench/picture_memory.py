"""What pictures take of memory, many at once and many in a row: `python -m bench.picture_memory`.

Each kind is a picture of just under 50 million pixels in the form that costs most: small files that unfold. All 64 are
asked for at once, with as many workers as there are processors or as are named. Printed is the most that the gateway
and its workers together have grown by, beside `images.max_decoded`, and what became of the pictures.

With `--row N`, N requests one after the other, 16 at a time, with pictures of 30 kilobytes to 18 megabytes in base64:
printed is the gateway's memory every tenth of the way, what it is after a pause, and that of its workers.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from gateway import allocator, wire
from gateway.config import ImagesConfig
from gateway.errors import GatewayError
from gateway.images.ingest import Encoded, Ingest
from gateway.images.plan import Sizing
from gateway.values import Bytes, Seconds
from tests.gateway.images import made
from tests.gateway.images.ingests import NoSource, copies, data_url
from tests.pictures import message

PICTURES = 64
AT_ONCE = 16
SIZES = (50_000, 300_000, 1_000_000, 2_500_000, 6_000_000, 13_000_000)  # bytes of a file, roughly
SIDE = 7071  # just under 50 million pixels
SAMPLED_EVERY = 0.005  # seconds
MODEL = Sizing("square", 896, "bilinear")
KINDS: dict[str, Callable[[], bytes]] = {
    "png, 1 bit": lambda: made.bomb(SIDE),
    "png, RGBA": lambda: made.png((SIDE, SIDE), color=6),
    "png, 16 bits": lambda: made.png((SIDE, SIDE), depth=16),
    "jpeg, progressive": lambda: made.saved(Image.new("RGB", (SIDE, SIDE), "teal"), "JPEG", progressive=True),
    "webp, lossless": lambda: made.saved(Image.new("RGBA", (SIDE, SIDE), "teal"), "WEBP", lossless=True, method=0),
}

# The allocator is told before anything has started a thread, as in the server.
ROW = """
from gateway import allocator, server
allocator.keep_freed(server.KEPT)
import asyncio, sys
from bench import picture_memory
asyncio.run(picture_memory.measure_row(int(sys.argv[1])))
"""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="(%(default)s)")
    parser.add_argument("--budget", type=int, default=ImagesConfig().max_decoded // 2**20, help="MiB (%(default)s)")
    parser.add_argument("--kind", choices=list(KINDS), nargs="+", default=list(KINDS))
    parser.add_argument("--row", type=int, default=0, help="requests one after the other, instead")
    options = parser.parse_args()
    if options.row:
        sys.exit(subprocess.run([sys.executable, "-c", ROW, str(options.row)], check=False).returncode)
    for kind in options.kind:
        asyncio.run(measure(kind, options.workers, options.budget))


async def measure(kind: str, workers: int, budget: int) -> None:
    """Prints a line."""
    data = KINDS[kind]()
    config = ImagesConfig(max_decoded=Bytes(budget * 2**20), decode_timeout=Seconds(60))
    async with Ingest(NoSource(), config, workers=workers) as ingest:
        pictures = await copies(ingest, data, PICTURES)
        await ingest.pool.is_filtered()
        before, most, began = resident(ingest), 0, time.monotonic()
        work = [asyncio.create_task(outcome(ingest, picture)) for picture in pictures]
        while not all(each.done() for each in work):
            most = max(most, resident(ingest))
            await asyncio.sleep(SAMPLED_EVERY)
        took = time.monotonic() - began
        outcomes = dict(Counter([await each for each in work]))
    grown = (most - before) / 2**20
    print(
        f"{kind:18} {grown:6.0f} MiB of {budget} MiB = {grown / budget:4.2f}   {took:5.1f} s   {outcomes}", flush=True
    )


async def measure_row(count: int) -> None:
    """Prints how memory goes on."""
    chance, turns = random.Random(1), asyncio.Semaphore(AT_ONCE)
    picture = made.noise("jpeg", (1200, 900))
    async with Ingest(NoSource(), ImagesConfig()) as ingest:
        print(f"before: {_resident(os.getpid()) / 2**20:.0f} MiB")
        for step in range(10):
            await asyncio.gather(*(asked(ingest, picture, chance, turns) for _ in range(count // 10)))
            print(
                f"after {(step + 1) * (count // 10):7} requests: {_resident(os.getpid()) / 2**20:5.0f} MiB", flush=True
            )
        await asyncio.sleep(2 * allocator.PAUSE)
        workers = [_resident(worker.pid) // 2**20 for worker in ingest.pool._staff._decoders]
        print(f"after a pause: {_resident(os.getpid()) / 2**20:5.0f} MiB, the workers {workers}")


async def asked(ingest: Ingest, picture: bytes, chance: random.Random, turns: asyncio.Semaphore) -> None:
    """One request, from its body to what an engine is given."""
    async with turns:
        size = int(chance.choice(SIZES) * chance.uniform(0.6, 1.4))
        data = picture + chance.randbytes(16) + bytes(max(0, size - len(picture)))
        body = json.dumps({"model": "m", "messages": [message(data_url(data))]}).encode()
        del data
        [(path, part)] = wire.pictures_of(wire.decode_request(body))
        encoded = await ingest.load(part.image_url.url, param=path)
        with ingest.lease(here=True) as lease:
            await ingest.reserve([(path, encoded)], MODEL, lease)
            await ingest.hand_over(encoded, MODEL, lease, param=path)


async def outcome(ingest: Ingest, picture: Encoded) -> str:
    """What becomes of the picture."""
    try:
        await ingest.hand_over(picture, MODEL, ingest.lease(here=False), param="url")
    except GatewayError as error:
        return str(error.code)
    return "decoded"


def resident(ingest: Ingest) -> int:
    """The memory of this process and of its workers, in bytes."""
    pids = {worker.pid for worker in ingest.pool._staff._decoders}
    return sum(map(_resident, [os.getpid(), *pids]))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main()
