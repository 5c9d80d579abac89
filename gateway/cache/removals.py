"""What was removed of late, so that an answer whose making began before is not kept after it.

The notes are few and short-lived: when there are too many, the oldest become one that holds for all answers.
"""

import math
import time
from collections import deque
from collections.abc import Callable

from gateway.cache.selection import Selection

REMEMBERED = 3600.0  # seconds: an answer whose making took longer is not kept
MOST = 1000  # notes


class Removals:
    """The removals of this process. The clock is a monotonic one, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: deque[tuple[float, Selection]] = deque()
        self._all_before = -math.inf

    def note(self, selection: Selection) -> None:
        """The answers that are meant are removed now."""
        self._notes.append((self._clock(), selection))
        if len(self._notes) > MOST:
            self._all_before, _ = self._notes.popleft()

    def hold(self, key: str, seconds: float) -> bool:
        """Whether an answer was meant by a removal since its making began, so many seconds ago.

        What was removed longer ago than notes are remembered is not known any more.
        """
        now = self._clock()
        began = now - seconds
        while self._notes and self._notes[0][0] < now - REMEMBERED:
            self._notes.popleft()
        if self._all_before < now - REMEMBERED:
            self._all_before = -math.inf
        return began <= self._all_before or any(
            when >= began and selection.holds(key) for when, selection in self._notes
        )
