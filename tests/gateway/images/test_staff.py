"""The workers: how many there are, what becomes of those that lie, do not start or grow old."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Overloaded
from gateway.images import decoder, pool, staff
from gateway.images.decoder import Decoder
from gateway.images.pool import NotDecoded, Pool
from gateway.images.shared import Memory

from .pools import LARGE, MEMORY, SMALL, decoded, is_zombie, pids, resident, settled, until, wanted


async def test_workers_come_as_they_are_needed(two: Pool) -> None:
    """One is there from the start, and never more than are at work, and one that is ready."""
    await decoded(two)
    assert len(pids(two)) <= 2
    await asyncio.gather(*(decoded(two, LARGE) for _ in range(6)))
    assert len(pids(two)) <= 3


async def test_an_idle_worker_that_died_costs_nothing(two: Pool) -> None:
    """A task that it cannot take goes to another."""
    await decoded(two)
    await settled(two)
    for pid in pids(two):
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: not Path(f"/proc/{pid}/stat").exists() or is_zombie(pid))
    assert (await decoded(two)).size == (64, 48)


async def test_workers_are_replaced_after_some_hundred_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoder leaks does not grow for ever."""
    monkeypatch.setattr(staff, "RECYCLED_AFTER", 3)
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        seen: set[int] = set()
        for _ in range(9):
            await decoded(running)
            seen |= pids(running)
        assert len(seen) >= 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


# --- workers that lie ------------------------------------------------------------------------------------------------

LIES = {
    "garbage": "channel.sendall(b'\\xff' * 9)",
    "more than there is room": "channel.sendall(task.answer(task.Outcome.DONE, 10**9))",
    "nothing": "channel.sendall(task.answer(task.Outcome.DONE, 0))",
    "half an answer": "channel.sendall(b'\\0\\0')",
    "a closed socket": "channel.close(); import time; time.sleep(60)",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_that_lies_is_killed(lie: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An answer that cannot be is no answer: the picture is refused, and nothing of what it says is used."""
    (tmp_path / "liar.py").write_text(
        "import socket\nfrom gateway.images import task\nchannel = socket.socket(fileno=0)\n"
        f"channel.sendall(b'L')\nsocket.recv_fds(channel, 4096, 2)\n{LIES[lie]}\n"
    )
    monkeypatch.setattr(decoder, "MODULE", "liar")
    monkeypatch.setattr(decoder, "END_PATIENCE", 0.1)
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        with pytest.raises(NotDecoded) as caught:
            await running.decode(wanted(SMALL), SMALL, "", Memory)
        assert caught.value.reason == "damaged"


async def test_a_worker_that_does_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits meanwhile is told to come back, and not left hanging."""
    monkeypatch.setattr(decoder, "MODULE", "there_is_none")
    monkeypatch.setattr(pool, "LONGEST_WAIT", 0.5)
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        with pytest.raises(Overloaded):
            await decoded(running)


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("can't start new thread")])
async def test_what_keeps_a_worker_from_starting_may_pass(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is started as soon as that can be done again."""
    start, faults = Decoder.start, [fault]

    async def failing(arguments: Any) -> Decoder:
        if faults:
            raise faults.pop()
        return await start(arguments)

    monkeypatch.setattr(Decoder, "start", failing)
    monkeypatch.setattr(staff, "FIRST_PAUSE", 0.01)
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        assert (await decoded(running)).size == (64, 48)


@pytest.mark.parametrize("place", ["gateway.images.pool.aside", "gateway.images.decoder.Decoder.send"])
async def test_no_fault_of_ours_loses_a_worker(place: str, two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong before a worker has its task, it does the next."""

    def failing(*_: object) -> None:
        raise MemoryError

    await settled(two)
    before = pids(two)
    monkeypatch.setattr(place, failing)
    for _ in range(5):
        with pytest.raises(MemoryError):
            await decoded(two)
    monkeypatch.undo()
    async with asyncio.timeout(30):
        await decoded(two)
    assert pids(two) >= before


async def test_a_kernel_without_filters_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs the gateway reads that its decoders are less locked up than they could be."""
    (tmp_path / "open.py").write_text("import socket\nsocket.socket(fileno=0).sendall(b'U')\n")
    monkeypatch.setattr(decoder, "MODULE", "open")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        for _ in range(2):
            assert not await running.is_filtered()
            await until(lambda: not all(worker.alive for worker in running._staff._decoders))
    assert [message[:12] for message in caplog.messages] == ["seccomp cann"]


HURRIED = """
from gateway import allocator
from gateway.images import worker
allocator.PAUSE = 0.1
worker.main(["png"], 2**30)
"""


async def test_a_worker_gives_memory_back_in_a_pause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it keeps for the next picture is not kept for ever; and it decodes the next one all the same."""
    (tmp_path / "hurried.py").write_text(HURRIED)
    monkeypatch.setattr(decoder, "MODULE", "hurried")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        await decoded(running)
        await settled(running)
        worker = await running._staff.take()
        running._staff.give_back(worker)  # the last to come is the first to be taken
        before, done = resident(worker.pid), worker.done
        for _ in range(2):
            assert (await decoded(running, LARGE)).size == (3000, 2000)
            await until(lambda: resident(worker.pid) < before + 4 * 2**20)
        assert worker.done == done + 2
