"""Pauses that grow from one failure to the next."""

import random


class Backoff:
    """Doubles its pauses from `first` to `longest` seconds, each cut at random so that many do not act in step."""

    def __init__(self, *, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.failures = 0

    def failed(self) -> float:
        """Counts a failure; the seconds to wait after it."""
        doubled = self._first * 2.0 ** min(self.failures, 30)
        self.failures += 1
        return min(self._longest, doubled) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret hangs on it

    def recovered(self) -> None:
        """Begins anew with the first pause."""
        self.failures = 0
