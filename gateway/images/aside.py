"""Work that would hold up the event loop, done in a thread."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

INLINE = 256 * 2**10  # bytes; work on less takes well under a millisecond, less than a thread's round trip is worth

T = TypeVar("T")


async def aside(size: int, work: Callable[[], T]) -> T:
    """Does the work on `size` bytes, in a thread if it is long; to its end, even for one who does not wait for it."""
    if size <= INLINE:
        return work()
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})  # what it works on may be taken away only then
        raise
