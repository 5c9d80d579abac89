"""What the tests of decoding share: a task for a picture, and workers that are watched, held still and killed."""

import asyncio
import os
import signal
from io import BytesIO
from pathlib import Path

from PIL import Image

from gateway.images import encode, header, plan
from gateway.images.plan import Sizing
from gateway.images.pool import Pool
from gateway.images.shared import Memory
from gateway.images.task import Task

from . import made

MEMORY = 2**30
SMALL = made.noise("png", (64, 48))
LARGE = made.noise("png", (3000, 2000), compress_level=1)


def wanted(data: bytes, *, seconds: float = 20.0, memory: int = 2**28, side: int | None = None) -> Task:
    """The task for a picture that keeps its size, or becomes a square."""
    read = header.read(data)
    sizing, resize = (Sizing("square", side), "fast") if side else (Sizing(None, 1024), "off")
    planned = plan.plan(read, sizing, resize)  # type: ignore[arg-type]
    return Task(read.format, planned, "ppm", len(data), encode.length("ppm", planned.size), memory, seconds)


async def decoded(running: Pool, data: bytes = SMALL, digest: str = "") -> Image.Image:
    """The picture as the pool gives it."""
    image = Image.open(BytesIO(bytes(await running.decode(wanted(data), data, digest, Memory))))
    image.load()
    return image


def pids(running: Pool) -> set[int]:
    """The process ids of its workers."""
    return {worker.pid for worker in running._staff._decoders}


class Sent(list[int]):
    """The process ids of the workers that were given a task, in order; `holds` has the next one hold still with it."""

    holds = False


async def killed(sent: Sent, number: signal.Signals) -> int:
    """Sends a signal to the worker that is the next to be given a task, before it has done it; its process id."""
    before, sent.holds = len(sent), True
    await until(lambda: len(sent) > before)
    sent.holds = False
    os.kill(sent[-1], number)
    if number in (signal.SIGSEGV, signal.SIGXCPU):  # which do nothing yet to one that holds still
        os.kill(sent[-1], signal.SIGCONT)
    return sent[-1]


async def settled(running: Pool) -> None:
    """Returns when a worker is ready and no other is being started."""
    await until(lambda: running._staff._starting is None and not running._staff._ready.empty())


def descriptors(pid: int | str = "self") -> int:
    """How many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def until(condition: object) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def is_zombie(pid: int) -> bool:
    """Whether it has ended, and its parent has not looked yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def resident(pid: int | str = "self") -> int:
    """The memory of a process, ours by default, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
