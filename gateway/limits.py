"""What may be under way at once. Whatever does not fit is refused before anything is read."""

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded


class Gate:
    """Counts requests under way and the bytes of their bodies; never waits."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """A place for a request whose body has `size` bytes, given back at the end.

        Raises:
            Overloaded: as many requests, or as many bytes, as are allowed are under way.
        """
        if self.requests >= self._max_requests:
            raise Overloaded(f"{self._max_requests} requests are under way, which is the limit. Try again in a second.")
        # A body alone never counts against itself, else one of the largest size allowed could be refused for ever.
        if self.bytes and self.bytes + size > self._max_bytes:
            raise Overloaded("The bodies of the requests under way fill the memory set aside. Try again in a second.")
        self.requests += 1
        self.bytes += size
        try:
            yield
        finally:
            self.requests -= 1
            self.bytes -= size
