"""Decoding in processes of their own: what a worker that dies or hangs costs, what a client that leaves, and whom."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from gateway.images.pool import NotDecoded, Pool
from gateway.images.shared import Memory

from . import made
from .pools import LARGE, MEMORY, SMALL, Sent, decoded, is_zombie, killed, pids, settled, until, wanted


async def test_a_picture_is_decoded(two: Pool) -> None:
    """What comes back is the picture, pixel for pixel."""
    image = await decoded(two)
    assert image.tobytes() == Image.open(BytesIO(SMALL)).tobytes()


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGSEGV, "damaged"), (signal.SIGSTOP, "time"), (signal.SIGXCPU, "time")]
)
async def test_a_worker_that_dies_or_hangs_costs_one_picture(
    two: Pool, sent: Sent, number: signal.Signals, reason: str
) -> None:
    """Whether it has crashed, does nothing or used up its time; others do not notice, and one is there for the next."""
    await decoded(two)
    victim = asyncio.create_task(two.decode(wanted(LARGE, seconds=0.1), LARGE, "victim", Memory))
    await killed(sent, number)
    await decoded(two)
    with pytest.raises(NotDecoded) as caught:
        await victim
    assert caught.value.reason == reason


async def test_a_worker_that_dies_is_in_the_log(two: Pool, sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    """With what it died of, and the beginning of the picture's digest: enough to find both."""
    work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, "0123456789abcdef", Memory))
    await killed(sent, signal.SIGSEGV)
    with pytest.raises(NotDecoded):
        await work
    assert caplog.messages == ["a worker is lost over picture 0123456789ab (damaged): signal 11"]


async def test_a_worker_that_somebody_else_kills_costs_nothing(two: Pool, sent: Sent) -> None:
    """As a system does that is out of memory: another worker decodes the picture, which has no part in that."""
    for _ in range(3):
        work = asyncio.create_task(two.decode(wanted(SMALL), SMALL, "harmless", Memory))
        await killed(sent, signal.SIGKILL)
        assert await work
    assert len(sent) == 6


async def test_a_picture_over_which_two_workers_are_killed_is_not_tried_for_ever(two: Pool, sent: Sent) -> None:
    """The second time it counts as the picture's doing."""
    work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, "", Memory))
    await killed(sent, signal.SIGKILL)
    await killed(sent, signal.SIGKILL)
    with pytest.raises(NotDecoded):
        await work
    assert len(sent) == 2


async def test_a_worker_is_there_at_once_after_a_death(two: Pool, sent: Sent) -> None:
    """One is kept ready for that: the next picture does not wait for a start."""
    took = []
    for round_ in range(5):
        await decoded(two)
        await settled(two)
        work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, str(round_), Memory))
        await killed(sent, signal.SIGSEGV)
        with pytest.raises(NotDecoded):
            await work
        began = time.monotonic()
        await decoded(two)
        took.append(time.monotonic() - began)
    assert sorted(took)[2] < 0.2


# --- clients that leave, and our own end ------------------------------------------------------------------------------


async def test_a_client_that_leaves_frees_the_worker(two: Pool, sent: Sent) -> None:
    """A long task is not finished for nobody: its worker is killed, and the memory comes back."""
    work = asyncio.create_task(two.decode(wanted(LARGE, seconds=99), LARGE, "left", Memory))
    victim = await killed(sent, signal.SIGSTOP)  # so that it certainly takes long
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until(lambda: victim not in pids(two))
    await until(lambda: two.budget.free == MEMORY)
    await decoded(two, LARGE, "left")


async def test_a_short_task_is_finished_for_nobody(two: Pool) -> None:
    """That costs less than another worker."""
    await decoded(two)
    before = pids(two)
    work = asyncio.create_task(two.decode(wanted(SMALL), SMALL, "", Memory))
    for _ in range(3):
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await until(lambda: not two._tasks)
    assert pids(two) >= before


async def test_the_loop_is_not_held_up(two: Pool) -> None:
    """While pictures of 18 MB go to and fro, nothing else waits."""
    data = made.png((3000, 2000), color=2, data=zlib.compress(bytes(2000 * 9001), 0))
    await decoded(two)
    worst, stop = 0.0, False
    ticks: list[float] = []

    async def tick() -> None:
        while not stop:
            began = time.thread_time()
            await asyncio.sleep(0)
            ticks.append(time.thread_time() - began)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(two.decode(wanted(data), data, "", Memory) for _ in range(4)))
    stop = True
    await ticking
    worst = sorted(ticks)[-5]
    assert worst < 0.01


GATEWAY = """
import asyncio, sys
from gateway.images.pool import Pool
async def main():
    async with Pool(["png"], most_memory=2**28, workers=1) as running:
        await running.is_filtered()
        print(*[worker.pid for worker in running._staff._decoders], flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_workers_end_with_the_gateway(stopped: bool) -> None:
    """However it ends, even when they hang at that moment."""
    with subprocess.Popen([sys.executable, "-c", GATEWAY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        if stopped:
            os.kill(workers[0], signal.SIGSTOP)
        process.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
