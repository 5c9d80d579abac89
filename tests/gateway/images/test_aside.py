"""Work in a thread: whoever leaves it waits until it is done."""

import asyncio
import threading
from functools import partial

import pytest

from gateway.images.aside import INLINE, aside


async def test_who_is_cancelled_waits_for_the_thread_however_often() -> None:
    """As at the end of the gateway, where all that is under way is cancelled, and some of it twice."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(20)
        ended.set()

    task = asyncio.create_task(aside(INLINE + 1, work))
    await asyncio.to_thread(begun.wait, 20)
    for _ in range(3):
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_long_work_goes_on_in_a_thread_and_short_work_here() -> None:
    """What it returns or raises comes back."""
    assert await aside(INLINE, threading.get_ident) == threading.get_ident()
    assert await aside(INLINE + 1, threading.get_ident) != threading.get_ident()
    with pytest.raises(ValueError, match="no number"):
        await aside(INLINE + 1, partial(_fail, "no number"))


def _fail(why: str) -> None:
    raise ValueError(why)
