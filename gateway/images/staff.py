"""The workers that decode pictures: as many as are needed, and one more that is ready at once.

They are started when they are needed. One that has died is replaced, and so is one that has decoded a few hundred
pictures, so that what a decoder leaks does not grow for ever.
"""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType

from gateway.backoff import Backoff
from gateway.images.decoder import Decoder

log = logging.getLogger(__name__)

RECYCLED_AFTER = 500  # pictures
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between starts that fail


class Staff:
    """The workers. Use it as an async context manager.

    Args:
        arguments: what they are started with.
        at_work: how many are at work at most; one more is kept ready.
    """

    def __init__(self, arguments: Sequence[str], at_work: int) -> None:
        self._arguments = arguments
        self._most = at_work + 1
        self._ready: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()
        self._decoders: set[Decoder] = set()
        self._starting: asyncio.Task[None] | None = None
        self._is_warned = False
        self._ends: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Staff":
        self._replenish()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._most = 0
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        for decoder in [*self._decoders]:
            self.dismiss(decoder)
        await asyncio.gather(*self._ends)

    async def take(self) -> Decoder:
        """A worker that is ready, for one task. It has to be given back or dismissed."""
        while True:
            decoder = await self._ready.get()
            self._replenish()
            if decoder.alive:
                return decoder
            self.dismiss(decoder)

    def give_back(self, decoder: Decoder) -> None:
        """The worker has done its task."""
        if decoder.done < RECYCLED_AFTER:
            self._ready.put_nowait(decoder)
        else:
            self.dismiss(decoder)

    def dismiss(self, decoder: Decoder) -> None:
        """Ends the worker, whatever it is doing; another takes its place."""
        decoder.kill()
        self._decoders.discard(decoder)
        end = asyncio.create_task(decoder.ended())
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        self._replenish()

    def _replenish(self) -> None:
        """Starts a worker where none is ready, as long as there may be more."""
        if self._starting is None and self._ready.empty() and len(self._decoders) < self._most:
            self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        try:
            decoder = await self._started()
        finally:
            self._starting = None
        self._decoders.add(decoder)
        self._ready.put_nowait(decoder)
        if not (decoder.filtered or self._is_warned):
            self._is_warned = True
            log.warning("seccomp cannot be had here: the processes that decode pictures may make any system call")

    async def _started(self) -> Decoder:
        backoff = Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE)
        while True:
            try:
                return await Decoder.start(self._arguments)
            except Exception as error:  # noqa: BLE001 - want of memory, of threads...: all of it may pass
                log.warning("a worker that decodes pictures did not start (%s); trying again", type(error).__name__)
                await asyncio.sleep(backoff.failed())
