"""What becomes of memory that was freed, which the C library decides: by itself it fits neither of our processes.

Pictures and their base64 are megabytes each. Given back to the system every time, they cost a page fault for every 4 kB
when the next one comes; kept in an arena for each thread, with small things between them, they make a process grow that
holds nothing. So they are kept, in one arena and up to a limit, and given back when there is a pause.

Only glibc can be told. Source: mallopt(3), malloc_trim(3).
"""

import asyncio
import ctypes
from collections.abc import Callable
from functools import cache

PAUSE = 5.0  # seconds without large work, after which memory is given back
LARGE = 256 * 2**10  # bytes of a piece of work that leaves something to give back

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_IN_ARENA = 32 * 2**20  # bytes, the most that can be set; what is larger is given back at once


def keep_freed(most: int) -> None:
    """Has this process keep so many freed bytes for what comes next, all in one arena. To be called before threads."""
    mallopt = _glibc("mallopt")
    for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST_IN_ARENA), (_TRIM_THRESHOLD, most)):
        mallopt(option, value)


def give_back() -> None:
    """Gives the system all memory that this process has freed; takes milliseconds, in which nobody can allocate."""
    _glibc("malloc_trim")(0)


class Pauses:
    """Gives memory back in the pauses between large pieces of work. Belongs to the event loop that it is used in."""

    def __init__(self) -> None:
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, size: int) -> None:
        """There was a piece of work on so many bytes."""
        if size < LARGE:
            return
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(PAUSE, self._look)

    def close(self) -> None:
        """Gives nothing back any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._last + PAUSE - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self._timer = None
            loop.run_in_executor(None, give_back)


@cache
def _glibc(name: str) -> Callable[..., object]:
    try:
        found: Callable[..., object] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return lambda *_: None
    return found
