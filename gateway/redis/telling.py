"""What Redis is told without anyone waiting: bounded, and never in silence when there is too much of it."""

import logging
import time
from collections.abc import Callable
from functools import partial

from gateway.redis.batches import Batches, Command, Send, Then
from gateway.shared import Unanswered

log = logging.getLogger(__name__)

TOGETHER = 256  # commands
MAX_WAITING = 2048  # commands that may be dropped
MAX_BYTES = 32 * 2**20
MAX_NEEDED = 16_384  # commands that are not dropped for others' sake
COMPLAIN_EVERY = 60.0  # seconds


class Telling:
    """A queue of two kinds: what is kept in Redis may be dropped, what others wait for comes before it. In order."""

    def __init__(self, send: Send, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._batches = Batches(send, most=TOGETHER)
        self._clock = clock
        self._waiting = self._bytes = self._needed = 0
        self._complains_after = clock()
        self.dropped = 0

    def put(self, command: Command, then: Then, *, size: int | None) -> None:
        """Queues a command; one with a size may be dropped, and is when too many of them wait."""
        if size is None:
            fits = self._needed < MAX_NEEDED
        else:
            fits = self._waiting < MAX_WAITING and self._bytes + size <= MAX_BYTES
        if not fits:
            self._drop(then)
            return
        self._count(size, 1)
        self._batches.put(command, partial(self._done, then, size), size=size or 0)

    async def done(self) -> None:
        """Returns when everything queued has been done or given up."""
        await self._batches.done()

    async def close(self) -> None:
        """Ends it; what is queued has a moment left."""
        await self._batches.close()

    def _done(self, then: Then, size: int | None, answer: object) -> None:
        self._count(size, -1)
        then(answer)

    def _count(self, size: int | None, one: int) -> None:
        if size is None:
            self._needed += one
        else:
            self._waiting, self._bytes = self._waiting + one, self._bytes + one * size

    def _drop(self, then: Then) -> None:
        self.dropped += 1
        if self._clock() >= self._complains_after:
            self._complains_after = self._clock() + COMPLAIN_EVERY
            log.warning("Redis is too slow for what it is told: %d commands were dropped so far", self.dropped)
        then(Unanswered("too many wait"))
