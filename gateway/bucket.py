"""A token bucket for so many things a minute: full, it holds a minute's worth; it fills again evenly. Pure.

All there is to know of one is when it will be full again; the time from now until then is its `debt`. Whole
microseconds make the arithmetic exact, here and in Redis alike.
"""

from msgspec import Struct

MINUTE = 60_000_000  # microseconds
SECOND = 1_000_000


class Bucket(Struct, frozen=True):
    """What a limit per minute leaves at one moment; `debt` is in microseconds."""

    limit: int
    debt: int = 0

    @property
    def interval(self) -> int:
        """How long it takes until there is one more, in microseconds."""
        return MINUTE // self.limit

    @property
    def depth(self) -> int:
        """The debt of an empty bucket, in microseconds."""
        return self.interval * self.limit

    @property
    def remaining(self) -> int:
        """How many can be taken now."""
        return (self.depth - self.debt) // self.interval

    @property
    def reset(self) -> float:
        """Seconds until it is full."""
        return self.debt / SECOND

    def holds(self, count: int) -> bool:
        """Whether so many can be taken now. None can be taken always."""
        return self.debt + count * self.interval <= self.depth

    def without(self, count: int) -> "Bucket":
        """The bucket after so many are taken."""
        return Bucket(self.limit, self.debt + count * self.interval)

    def wait(self, count: int) -> float | None:
        """Seconds until so many can be taken, 0 when they can be now; None when there never are so many."""
        if count > self.limit:
            return None
        return max(0, self.debt + count * self.interval - self.depth) / SECOND


def bucket(limit: int, *, full_at: int, now: int) -> Bucket:
    """The bucket that will be full at that time; both times are in microseconds of one clock.

    No bucket takes longer than a minute: a time further away comes from a clock that was set, and means nothing.
    """
    whole = Bucket(limit)
    debt = full_at - now
    return whole if not 0 < debt <= MINUTE else Bucket(limit, min(debt, whole.depth))
