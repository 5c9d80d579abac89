"""Where the owner takes connections and gives each to a worker.

Not one listening socket for all: whoever wakes first would take all the connections that a pool of clients opens at
once, and keep them, and a worker that hangs or dies would keep or lose those in its own queue.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import islice

from gateway.listener import accepted

log = logging.getLogger(__name__)

BACKLOG = 2048  # connections that wait to be taken
AT_ONCE = 64  # connections taken before others have their turn
LAST_PATIENCE = 1.0  # seconds in which those who have connected are given away when it closes
PAUSE = 0.05  # seconds for which none are taken where they cannot be had or given away


class Door:
    """Takes what comes to `listener`; `give` gives a connection to a worker, and says whether any could take it."""

    def __init__(self, listener: socket.socket, give: Callable[[socket.socket], bool]) -> None:
        self._listener = listener
        self._give = give
        self._waiting: socket.socket | None = None
        self._resuming: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """From now on connections are taken."""
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._listener, self._take)

    async def close(self) -> None:
        """From now on connections are refused; those who have connected already are given away, or let go.

        Ends within `LAST_PATIENCE`.
        """
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._resuming is not None:
            self._resuming.cancel()
        waiting = [] if self._waiting is None else [self._waiting]
        waiting += islice(accepted(self._listener), BACKLOG)
        self._listener.close()
        with ExitStack() as stack, suppress(TimeoutError):
            for connection in waiting:
                stack.enter_context(connection)
            async with asyncio.timeout(LAST_PATIENCE):
                for connection in waiting:
                    await self._give_in_time(connection)

    async def _give_in_time(self, connection: socket.socket) -> None:
        with suppress(OSError):  # it has gone meanwhile
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self._give(connection):  # noqa: ASYNC110 - nothing tells when a worker has room again
            await asyncio.sleep(PAUSE)

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("no connection can be taken (%s)", error.strerror)  # noqa: TRY400 - there is nothing to trace
                self._pause()
                return
            if not self._given(connection):
                self._pause()
                return

    def _given(self, connection: socket.socket) -> bool:
        """Gives it away; one that nobody can take waits, and with it all that come later."""
        if self._give(connection):
            connection.close()
            self._waiting = None
        else:
            self._waiting = connection
        return self._waiting is None

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._resuming = loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        if self._waiting is None or self._given(self._waiting):
            asyncio.get_running_loop().add_reader(self._listener, self._take)
        else:
            self._pause()
