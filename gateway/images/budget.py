"""Memory that work in progress may take, promised before the work begins."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

Purpose = Literal["decoding", "decoded"]
"""What memory is for: pictures in work, or those that wait for an engine or are with one."""


class Budget:
    """So many bytes, given out in the order in which they were asked for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def reserved(self, wanted: int) -> AsyncIterator[None]:
        """Holds `wanted` bytes, all of them when it is more; waits in line for what is not free."""
        taken = await self.take(wanted)
        try:
            yield
        finally:
            self.give_back(taken)

    async def take(self, wanted: int) -> int:
        """The same for who will give back what it returns, in one piece."""
        wanted = min(wanted, self.size)
        if self._line or wanted > self.free:
            await self._turn(wanted)
        else:
            self.free -= wanted
        return wanted

    def give_back(self, taken: int) -> None:
        """What was taken is free again, for whoever is first in line."""
        self.free += taken
        self._serve()

    async def _turn(self, wanted: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.append((wanted, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.free += wanted  # it came, and nobody is there to take it
            self._serve()
            raise

    def _serve(self) -> None:
        while self._line and (self._line[0][1].cancelled() or self._line[0][0] <= self.free):
            wanted, turn = self._line.popleft()
            if not turn.cancelled():
                self.free -= wanted
                turn.set_result(None)
