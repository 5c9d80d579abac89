"""What may be under way at once. Whatever does not fit is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.errors import Overloaded


class Gate:
    """Counts requests under way and the bytes of their bodies and of what is fetched for them; never waits."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def admitted(self) -> Iterator[Callable[[int], None]]:
        """A place for a request, given back at the end; to be called with the size of what arrives, in bytes.

        Raises:
            Overloaded: as many requests, or as many bytes, as are allowed are under way.
        """
        if self.requests >= self._max_requests:
            raise Overloaded(f"{self._max_requests} requests are under way, which is the limit. Try again in a second.")
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            others = self.bytes - held
            # A body alone never counts against itself, else one of the largest size could be refused for ever.
            if others and self.bytes + size > self._max_bytes:
                raise Overloaded("The requests under way, with their pictures, fill the memory set aside. Try again.")
            held += size
            self.bytes += size

        self.requests += 1
        try:
            yield hold
        finally:
            self.requests -= 1
            self.bytes -= held
