"""When a failing server is left alone, and how often requests may be tried again. Pure: the caller brings the time.

    closed ──too many failures──> open ──its pause has passed──> half open ──a success──> closed
                                   ▲                                 │
                                   └────── a failure, twice the pause┘

Half open lets one request through at a time.
"""

from collections import deque

from gateway.backoff import Backoff

MOST_IN_A_ROW = 5  # failures
WINDOW = 10.0  # seconds
ENOUGH = 20  # requests within the window, for their share of failures to mean anything
FIRST_PAUSE = 5.0  # seconds
LONGEST_PAUSE = 60.0

PRICE = 10  # requests that pay for one more try
RESERVE = 10  # tries that may be made before any request has paid


class Breaker:
    """Watches the requests to one server. Times are in seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self.closed = True
        self.paused_until = 0.0  # past once closed or half open
        self._backoff = Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE)
        self._on_trial = False
        self._era = 0
        self._in_a_row = 0
        self._recent: deque[tuple[float, bool]] = deque()
        self._recent_failures = 0

    def allows(self, now: float) -> bool:
        """Whether a request may be sent."""
        return self.closed or (now >= self.paused_until and not self._on_trial)

    def begin(self) -> int:
        """Notes that an allowed request is sent; what it returns goes to `end`."""
        self._on_trial = not self.closed
        return self._era

    def end(self, era: int, verdict: bool | None, now: float) -> None:
        """Notes how a request ended: well, badly, or (None) in a way that says nothing about the server."""
        if era != self._era:
            return  # it was sent before the breaker opened or closed, and says nothing about what came after
        if verdict is None:
            self._on_trial = False
        elif self._on_trial:
            self._close() if verdict else self._open(now)
        else:
            self._note(verdict, now)
            if not verdict and self._fails_too_often():
                self._open(now)

    def _note(self, verdict: bool, now: float) -> None:
        self._recent.append((now, verdict))
        self._recent_failures += not verdict
        self._in_a_row = 0 if verdict else self._in_a_row + 1
        while self._recent[0][0] <= now - WINDOW:
            _, went_well = self._recent.popleft()
            self._recent_failures -= not went_well

    def _fails_too_often(self) -> bool:
        seen = len(self._recent)
        return self._in_a_row >= MOST_IN_A_ROW or (seen >= ENOUGH and self._recent_failures * 2 > seen)

    def _open(self, now: float) -> None:
        self._turn(closed=False)
        self.paused_until = now + self._backoff.failed()

    def _close(self) -> None:
        self._turn(closed=True)
        self._backoff.recovered()

    def _turn(self, *, closed: bool) -> None:
        """A new era, in which nothing is held against the server."""
        self.closed = closed
        self._era += 1
        self._on_trial = False
        self._in_a_row = 0
        self._recent.clear()
        self._recent_failures = 0


class RetryBudget:
    """Lets a tenth of the requests be tried again, and a few more, so that an outage is not made worse by retries."""

    def __init__(self) -> None:
        self._saved = PRICE * RESERVE

    def earn(self) -> None:
        """A request has come in."""
        self._saved = min(PRICE * RESERVE, self._saved + 1)

    def spend(self) -> bool:
        """Whether one more try can be paid for; it then is."""
        if self._saved < PRICE:
            return False
        self._saved -= PRICE
        return True
