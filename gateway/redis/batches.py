"""Commands that go to Redis together: while some are under way others gather, and go next, in order."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from gateway.shared import Unanswered

log = logging.getLogger(__name__)

MOST_BYTES = 2**20  # that go together, unless one alone is larger
LAST = 1.0  # seconds: what is queued may take that long at the end

Command = Callable[[Any], Awaitable[Any]]
"""Asks a client of redis-py, or a pipeline of one, for something."""
Then = Callable[[Any], None]
"""Is called with what came of a command, which is an `Unanswered` where nothing did."""
Send = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]
"""Sends commands together and gives back what came of each; it never fails."""


class _Queued(Struct, frozen=True):
    command: Command
    then: Then
    size: int


class Batches:
    """A queue of commands, at `most` so many of which go together. Whoever fills it bounds it."""

    def __init__(self, send: Send, *, most: int) -> None:
        self._send = send
        self._most = most
        self._queue: deque[_Queued] = deque()
        self._sending: asyncio.Task[None] | None = None

    def put(self, command: Command, then: Then, *, size: int = 0) -> None:
        """Queues a command that has about so many bytes to send."""
        self._queue.append(_Queued(command, then, size))
        if self._sending is None:
            self._sending = asyncio.create_task(self._drain())

    async def done(self) -> None:
        """Returns when everything queued, and whatever that has led to, has been done or given up."""
        while self._sending is not None:
            await asyncio.wait({self._sending})

    async def close(self) -> None:
        """Ends the sending, once all is done or has taken too long; what is left is given up."""
        if (sending := self._sending) is not None:
            await asyncio.wait({sending}, timeout=LAST)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        while self._queue:
            _tell(self._queue.popleft(), Unanswered("the gateway ends"))

    async def _drain(self) -> None:
        try:
            while self._queue:
                batch = self._next()
                answers: Sequence[Any] = [Unanswered("it was given up")] * len(batch)
                try:
                    answers = await self._send([queued.command for queued in batch])
                finally:
                    for queued, answer in zip(batch, answers, strict=True):
                        _tell(queued, answer)
        finally:
            self._sending = None

    def _next(self) -> list[_Queued]:
        batch = [self._queue.popleft()]
        size = batch[0].size
        while self._queue and len(batch) < self._most and size + self._queue[0].size <= MOST_BYTES:
            size += self._queue[0].size
            batch.append(self._queue.popleft())
        return batch


def _tell(queued: _Queued, answer: object) -> None:
    try:
        queued.then(answer)
    except Exception:  # the others are waiting for their answers
        log.exception("what came of a command to Redis could not be used")
