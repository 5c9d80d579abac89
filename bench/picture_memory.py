"""What 64 just-legal pictures at once take of memory: `python -m bench.picture_memory`.

Each kind is a picture of just under 50 million pixels in the form that costs most: small files that unfold. All 64 are
asked for at once, with as many workers as there are processors or as are named. Printed is the most that the gateway
and its workers together have grown by, beside `images.max_decoded`, and what became of the pictures.
"""

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import GatewayError
from gateway.images.ingest import Encoded, Ingest
from gateway.images.plan import Sizing
from gateway.values import Bytes, Seconds
from tests.gateway.images import made
from tests.gateway.images.ingests import NoSource, copies

PICTURES = 64
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="(%(default)s)")
    parser.add_argument("--budget", type=int, default=ImagesConfig().max_decoded // 2**20, help="MiB (%(default)s)")
    parser.add_argument("--kind", choices=list(KINDS), nargs="+", default=list(KINDS))
    options = parser.parse_args()
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
