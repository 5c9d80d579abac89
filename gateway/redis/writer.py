"""Work that nobody waits for: one thing after another, in order."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Work = Callable[[], Awaitable[None]]

MAX_WAITING = 256
LAST = 1.0  # seconds: what is queued may take that long at the end


class Writer:
    """A bounded queue of work; what does not fit is dropped. Use it as an async context manager."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Work] = asyncio.Queue(MAX_WAITING)
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST):
                await self.flush()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """How much is queued."""
        return self._queue.qsize()

    def put(self, work: Work) -> None:
        """Queues work; when too much waits, it is dropped."""
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(work)

    async def flush(self) -> None:
        """Returns when everything queued has been done or given up."""
        await self._queue.join()

    async def _write(self) -> None:
        while True:
            work = await self._queue.get()
            await work()
            self._queue.task_done()
