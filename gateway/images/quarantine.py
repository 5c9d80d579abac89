"""Pictures that have killed their decoders: after the second time, nobody decodes them for a while. Reads no clock."""

from collections import OrderedDict

STRIKES = 2  # workers that a picture may kill; the first time may have been chance
KEPT = 1000  # pictures that are remembered
DURATION = 600.0  # seconds


class Quarantine:
    """Digests with what they have done. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._strikes: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def strike(self, digest: str, now: float) -> None:
        """The picture has killed a worker."""
        strikes, since = self._strikes.pop(digest, (0, now))
        self._strikes[digest] = (1, now) if now >= since + DURATION else (strikes + 1, now)
        if len(self._strikes) > KEPT:
            self._strikes.popitem(last=False)

    def holds(self, digest: str, now: float) -> bool:
        """Whether the picture is refused."""
        strikes, since = self._strikes.get(digest, (0, now))
        return strikes >= STRIKES and now < since + DURATION
