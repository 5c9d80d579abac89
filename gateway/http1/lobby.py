"""Who is connected, and what connections are held to."""

from typing import Protocol

LARGE, SMALL = 256 * 2**10, 16 * 2**10  # bytes


class Closable(Protocol):
    """A connection, as the lobby sees it."""

    def close(self) -> None:
        """Ends it."""


class Lobby:
    """Counts connections, and makes room for new ones by closing those that have waited longest without a request.

    Times are in seconds: `keep_alive` is how long an idle connection is kept, `body_timeout` how long a body may take.
    `large`, and `small` at its beginning, is where each of them is read into, for it is emptied at once.
    """

    def __init__(self, *, max_connections: int, keep_alive: float, body_timeout: float) -> None:
        self._max_connections = max_connections
        self._idle: dict[Closable, None] = {}  # whoever has waited longest comes first
        self._connections = 0
        self.large = memoryview(bytearray(LARGE))
        self.small = self.large[:SMALL]
        self.keep_alive = keep_alive
        self.body_timeout = body_timeout

    def enter(self) -> bool:
        """Counts one more connection; False where there is no room for it."""
        self._connections += 1
        if self._connections <= self._max_connections:
            return True
        if not self._idle:
            return False
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        oldest.close()
        return True

    def leave(self, connection: Closable) -> None:
        """Counts one less."""
        self._connections -= 1
        self._idle.pop(connection, None)

    def waits(self, connection: Closable) -> None:
        """There is no request under way on it."""
        self._idle[connection] = None

    def works(self, connection: Closable) -> None:
        """There is one."""
        self._idle.pop(connection, None)
