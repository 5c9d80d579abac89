"""One timer for all that a connection waits for."""

import asyncio
from collections.abc import Callable

_NEVER = float("inf")


class Deadline:
    """Calls `late` when what is expected has not come in time, and never where nothing is expected.

    Most of what is expected comes: so the timer is left as it is when the deadline moves further away, and looks when
    it goes off whether it is time yet.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, late: Callable[[], None]) -> None:
        self._loop = loop
        self._late = late
        self._at = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, seconds: float) -> None:
        """From now on it has so long; what was expected before does not count any more."""
        self._at = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._at, self._look)

    def clear(self) -> None:
        """Nothing is expected."""
        self._at = _NEVER

    def end(self) -> None:
        """Nothing will be expected any more, and nobody is held who could be told."""
        self._at = _NEVER
        self._late = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._at <= self._loop.time():
            self._at = _NEVER
            self._late()
        elif self._at != _NEVER:
            self._timer = self._loop.call_at(self._at, self._look)


def _nobody() -> None:
    """There is nobody to be told."""
