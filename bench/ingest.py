"""What it costs to take a picture in, beside the usual path in the same run: `python -m bench.ingest`.

The usual path is the standard library's base64, Pillow decoding in full, and the model's own resize. The picture is a
JPEG of 12 megapixels with the detail of a photograph, the same in every run. The first rows are the work itself, on one
thread, in time of the processor: medians of the two paths taking turns, so that both meet the same machine, each in a
process of its own, so that neither finds memory warm that the other used. The pool's rows go through the decoding
workers, in time of the clock.
"""

import argparse
import asyncio
import base64
import io
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pybase64
from PIL import Image

from gateway import allocator
from gateway.config import ImagesConfig
from gateway.errors import Overloaded, PictureError
from gateway.images import data_url, header, pixels
from gateway.images.ingest import Encoded, Ingest
from gateway.images.plan import Filter, Sizing, plan
from gateway.images.sniff import FORMATS
from gateway.images.worker import KEPT
from tests.detail import photograph
from tests.gateway.images.ingests import NoSource, copies
from tests.gateway.images.made import bomb, saved

MEGAPIXELS_12 = (4032, 3024)
JUST_LEGAL = (8660, 5770)  # pixels: just under 50 million
BASE64_BYTES = 2_500_000
MAX_BYTES = 20 * 2**20
MODELS = (("BLIP", 384, "bicubic", 0.25), ("Gemma 3", 896, "bilinear", 0.4), ("CogVLM2", 1344, "bicubic", None))
HELD: list[Callable[[], object]] = []  # in a process of its own, the work that it is there for
TURN = 0.02  # seconds, so that what is short is not measured by how a process wakes up
SAMPLE_EVERY = 0.02  # seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    picture = saved(photograph(MEGAPIXELS_12), "JPEG", quality=85)
    print(f"the picture: {MEGAPIXELS_12[0]} x {MEGAPIXELS_12[1]}, {len(picture) / 1e6:.2f} MB; {rounds} rounds\n")
    print(f"{'':34}{'usual':>10}{'ours':>10}{'ratio':>8}{'wanted':>8}")
    compare_base64(rounds)
    for name, side, filter_, wanted in MODELS:
        compare_model(picture, f"JPEG to {name}'s {side}", Sizing("square", side, filter_), wanted, rounds)  # type: ignore[arg-type]
    asyncio.run(measure_bomb())
    asyncio.run(measure_pool(picture, rounds))
    asyncio.run(measure_crowd())


# --- one thread -----------------------------------------------------------------------------------------------------


def compare_base64(rounds: int) -> None:
    """The text of a data URL to its bytes."""
    url = "data:image/jpeg;base64," + base64.b64encode(os.urandom(BASE64_BYTES)).decode()
    compare("2.5 MB of base64", partial(usual_base64, url), partial(our_base64, url), 0.05, rounds)


def compare_model(picture: bytes, name: str, sizing: Sizing, wanted: float | None, rounds: int) -> None:
    """A data URL to what the model sees."""
    url = "data:image/jpeg;base64," + pybase64.b64encode_as_string(picture)
    compare(name, partial(usual, url, sizing.side, sizing.filter), partial(ours, url, sizing), wanted, rounds)


def usual_base64(url: str) -> bytes:
    """The standard library's way."""
    return base64.b64decode(url.partition(",")[2])


def our_base64(url: str) -> bytes:
    """The gateway's way."""
    return data_url.decode(url, param="", max_bytes=MAX_BYTES, formats=FORMATS)


def usual(url: str, side: int, filter_: Filter) -> Image.Image:
    """As a library for models takes a picture in."""
    image = Image.open(io.BytesIO(usual_base64(url)))
    image.load()
    return image.resize((side, side), Image.Resampling[filter_.upper()])


def ours(url: str, sizing: Sizing) -> Image.Image:
    """As the gateway and its worker do, without the way between them."""
    data = our_base64(url)
    head = header.read(data)
    return pixels.render(data, head.format, plan(head, sizing, "fast"))


def compare(
    name: str, usual: Callable[[], object], ours: Callable[[], object], wanted: float | None, rounds: int
) -> None:
    """A row of two ways to do one thing."""
    with process(usual) as one, process(ours, allocator.keep_freed, KEPT) as other:
        times = [(one.submit(seconds).result(), other.submit(seconds).result()) for _ in range(rounds)]
    theirs, own = (statistics.median(column) for column in zip(*times, strict=True))
    goal = f"{wanted:8.2f}" if wanted is not None else ""
    print(f"{name:34}{theirs * 1e3:7.1f} ms{own * 1e3:7.2f} ms{own / theirs:8.3f}{goal}")


def process(work: Callable[[], object], *first: Any) -> ProcessPoolExecutor:
    """A process of its own, which does the `first` thing, and then holds the work."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=hold, initargs=(work, *first))


def hold(work: Callable[[], object], first: Callable[[Any], object] | None = None, *arguments: Any) -> None:
    """Has the work at hand, so that it is sent only once."""
    if first is not None:
        first(*arguments)
    HELD.append(work)


def seconds() -> float:
    """How much of the processor's time the held work takes, done for a while; nothing of it is in other threads."""
    begun, times = time.thread_time(), 0
    while times == 0 or time.thread_time() - begun < TURN:
        HELD[0]()
        times += 1
    return (time.thread_time() - begun) / times


# --- the whole way --------------------------------------------------------------------------------------------------


async def measure_bomb() -> None:
    """A PNG of 20 kilobytes that claims 13,000 x 13,000 pixels."""
    url = "data:;base64," + base64.b64encode(bomb(13_000)).decode()
    async with Ingest(NoSource(), ImagesConfig()) as ingest:
        before, begun = memory(), time.perf_counter()
        try:
            await ingest.load(url, param="")
        except PictureError as refusal:
            took, moved = time.perf_counter() - begun, memory() - before
            print(f"\na bomb of 13,000 x 13,000: {refusal.code} in {took * 1e3:.2f} ms, {moved / 1e6:.1f} MB moved")


async def measure_pool(picture: bytes, rounds: int) -> None:
    """Many of the pictures through one worker and through one for each processor."""
    sizing, rates = Sizing("square", 384), []
    for workers in (1, len(os.sched_getaffinity(0))):
        async with Ingest(NoSource(), ImagesConfig(), workers=workers) as ingest:
            pictures = await copies(ingest, picture, 6 * rounds)
            await hand_over(ingest, pictures[: 2 * rounds], sizing)  # so that the workers are there
            begun = time.perf_counter()
            await hand_over(ingest, pictures[2 * rounds :], sizing)
            rates.append(4 * rounds / (time.perf_counter() - begun))
            print(f"through {workers} worker(s) to a data URL for 384: {rates[-1]:.1f} a second")
    print(f"    {rates[1] / rates[0]:.2f} times")


async def measure_crowd() -> None:
    """64 pictures of just under 50 megapixels at once: the most memory that the gateway and its workers take."""
    config = ImagesConfig()
    image = Image.linear_gradient("L").resize(JUST_LEGAL).convert("RGB")
    async with Ingest(NoSource(), config) as ingest:
        pictures = await copies(ingest, saved(image, "PNG", compress_level=1), 66)
        await hand_over(ingest, pictures[:2], Sizing("square", 384))
        with Watch() as watch:
            done = await hand_over(ingest, pictures[2:], Sizing("square", 384))
    print(
        f"64 pictures of {JUST_LEGAL[0]} x {JUST_LEGAL[1]} at once: {done} decoded, the others 429; at most "
        f"{watch.most / 1e6:.0f} MB more than before, of a budget of {config.max_decoded / 1e6:.0f} MB"
    )


async def hand_over(ingest: Ingest, pictures: Sequence[Encoded], sizing: Sizing) -> int:
    """Hands the pictures over at once, each in a request of its own; how many were not refused for want of room."""

    async def one(encoded: Encoded) -> None:
        with ingest.lease(here=False) as lease:
            await ingest.hand_over(encoded, sizing, lease, param="")

    outcomes = await asyncio.gather(*(one(picture) for picture in pictures), return_exceptions=True)
    return sum(not isinstance(outcome, Overloaded) for outcome in outcomes)


class Watch:
    """Looks at memory all the time; `most` is how much there was more than at the beginning, in bytes."""

    def __enter__(self) -> "Watch":
        self.most, self._before, self._ended = 0, memory(), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY):
            self.most = max(self.most, memory() - self._before)


def memory() -> int:
    """What this process and its children take, in bytes; what they share counts once."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *(pid for file in children for pid in file.read_text().split())]
    return sum(share(pid) for pid in pids)


def share(pid: str) -> int:
    """A process's share of memory, 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
