"""Work that would hold up the event loop, done in a thread."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

INLINE = 256 * 2**10  # bytes; work on less takes well under a millisecond, less than a thread's round trip is worth

T = TypeVar("T")


async def aside(size: int, work: Callable[[], T]) -> T:
    """Does the work on `size` bytes, in a thread if it is long; to its end, even for one who does not wait for it."""
    if size <= INLINE:
        return work()
    # A future and no task, which the end of the loop would cancel while the thread goes on.
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():  # what it works on may be taken away only then, however often it is cancelled
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        raise
