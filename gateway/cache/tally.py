"""What the cache has been good for since this process started."""

from gateway.wire import Usage


class Tally:
    """Counts. `seconds` and `tokens` are what making the answers anew would have taken."""

    def __init__(self) -> None:
        self.hits = self.joins = self.misses = self.bypasses = 0
        self.seconds = 0.0
        self.tokens = 0

    def hit(self, usage: Usage, seconds: float) -> None:
        """An answer was found."""
        self.hits += 1
        self._save(usage, seconds)

    def join(self, usage: Usage, seconds: float) -> None:
        """An answer was shared while it was made."""
        self.joins += 1
        self._save(usage, seconds)

    def miss(self) -> None:
        """An answer had to be made."""
        self.misses += 1

    def bypass(self) -> None:
        """An answer had to be made, because the client wanted it so."""
        self.bypasses += 1

    def _save(self, usage: Usage, seconds: float) -> None:
        self.seconds += seconds
        self.tokens += usage.total_tokens
