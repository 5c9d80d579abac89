"""Memory that was freed: kept for the next picture, within a limit, and given back in pauses."""

import asyncio
import subprocess
import sys

import pytest

from gateway import allocator
from gateway.allocator import LARGE, Pauses

PROGRAM = """
import os, sys
from gateway import allocator

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

allocator.keep_freed(int(sys.argv[1]) * 2**20)
before, marks = resident(), []
for _ in range(3):
    pictures = []
    for _ in range(100):
        pictures.append(b"x" * 2**21)
        marks.append(bytes(2000))  # small things that stay, between large ones that go
    most = resident() - before
    del pictures
    kept = resident() - before
allocator.give_back()
print(most, kept, resident() - before)
"""


def run(kept: int, program: str = PROGRAM) -> list[int]:
    """In MiB: the most that was used, what was kept of it, and what was left when that was given back."""
    command = [sys.executable, "-c", program, str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_what_was_freed_is_kept_and_given_back_when_told() -> None:
    """What lies between things in use is kept for the next that comes; in the end nothing is."""
    most, kept, left = run(300)
    assert most >= 200
    assert kept > 150
    assert left < 10


def test_no_more_is_kept_at_the_end_than_was_said() -> None:
    """What is free in one piece and above that goes at once."""
    most, kept, left = run(20, PROGRAM.replace("marks.append", "len"))
    assert most >= 200
    assert kept < 30
    assert left < 10


def test_systems_with_another_allocator_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be told to theirs."""

    def none(_: object) -> object:
        return object()

    allocator._glibc.cache_clear()
    monkeypatch.setattr("ctypes.CDLL", none)
    try:
        assert allocator._glibc("mallopt")(-1, 0) is None
        allocator.keep_freed(2**20)
        allocator.give_back()
    finally:
        allocator._glibc.cache_clear()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When memory was given back, by the loop's clock, after pauses that are short."""
    times: list[float] = []
    monkeypatch.setattr(allocator, "PAUSE", 0.05)
    return times


async def noted(monkeypatch: pytest.MonkeyPatch, given: list[float], pauses: Pauses, sizes: list[int]) -> float:
    """Notes work of those sizes, and returns the time of the last when memory has been given back."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def give_back() -> None:
        given.append(loop.time())
        loop.call_soon_threadsafe(done.set)

    monkeypatch.setattr(allocator, "give_back", give_back)
    for size in sizes:
        pauses.note(size)
        last = loop.time()
        await asyncio.sleep(0.02)
    async with asyncio.timeout(30):
        await done.wait()
    return last


async def test_memory_is_given_back_in_a_pause(monkeypatch: pytest.MonkeyPatch, given: list[float]) -> None:
    """Once, and not while there is still work; after the next work again."""
    pauses = Pauses()
    last = await noted(monkeypatch, given, pauses, [LARGE] * 5)
    assert len(given) == 1
    assert given[0] >= last + 0.05 - 1e-3
    await noted(monkeypatch, given, pauses, [LARGE])
    assert len(given) == 2


async def test_small_work_leaves_nothing_to_give_back(given: list[float]) -> None:
    """And what has been closed gives nothing back."""
    pauses = Pauses()
    pauses.note(LARGE - 1)
    assert pauses._timer is None
    pauses.note(LARGE)
    timer = pauses._timer
    assert timer is not None
    pauses.close()
    assert timer.cancelled()
    assert given == []
