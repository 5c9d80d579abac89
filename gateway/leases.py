"""Who makes an answer that several want: a lease by the answer's name. It saves work and guards nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

LONGEST = 300.0  # seconds that anybody waits for a lease


class Leases(Protocol):
    """Leases by name."""

    def held(self, name: str) -> AbstractAsyncContextManager[None]:
        """The lease of that name, once it can be had; nothing when whoever gives them is away or the wait was long."""
        ...


class LocalLeases:
    """Leases that one process gives out, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """The lease of that name, once it can be had; nothing when the wait was long enough."""
        line = self._lines.setdefault(name, _Line())
        line.users += 1
        held = False
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST):
                    held = await line.lock.acquire()
            yield
        finally:
            if held:
                line.lock.release()
            line.users -= 1
            if not line.users:
                del self._lines[name]


class _Line:
    """Those who have a lease or wait for it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
