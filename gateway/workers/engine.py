"""An engine of this machine as a worker has it: lent by the owner for each request, and spoken to directly."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from gateway import wire
from gateway.engine import Ask, Status
from gateway.line import Line, Visit
from gateway.workers import messages
from gateway.workers.contact import Contact


class LentEngine:
    """An engine whose process the owner has in hand. Use it as an async context manager.

    Args:
        name: the model's name.
        socket: the path of the engine's Unix socket.
        contact: reaches the owner.
        cold_start_wait: seconds that a request waits for a start, unless it says otherwise.
        request_timeout: seconds that a request may take once the engine is ready.
    """

    def __init__(
        self, name: str, socket: str, contact: Contact, *, cold_start_wait: float, request_timeout: float
    ) -> None:
        self.name = name
        self._contact = contact
        self._line = Line(name, socket, self, cold_start_wait=cold_start_wait, request_timeout=request_timeout)

    async def __aenter__(self) -> Self:
        await self._line.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._line.__aexit__(kind, error, trace)

    @property
    def status(self) -> Status:
        """What its process was doing when the owner told of it last."""
        return self._contact.statuses[self.name]

    def want(self) -> None:
        """Has it loaded in the background, and again after a start that failed."""
        self._contact.tell(messages.Want(self.name))

    async def complete(self, ask: Ask, *, wait: float | None = None) -> wire.ChatCompletion:
        """A whole answer.

        Raises:
            GatewayError: the engine refused, is not there, failed or took too long.
        """
        return await self._line.complete(ask, wait)

    def stream(self, ask: Ask, *, wait: float | None = None) -> AsyncGenerator[wire.Chunk, None]:
        """The answer as it is made.

        Raises:
            GatewayError: as `complete`, and also in the middle.
        """
        return self._line.stream(ask, wait)

    # --- its keeper, by way of the owner ---

    def visited(self, wait: float) -> AbstractAsyncContextManager[Visit]:
        """The engine, ready, and not to be unloaded while the context lasts.

        Raises:
            EngineUnavailable: it could not start, or it was not its turn or not ready within `wait` seconds.
        """
        return self._contact.lent(messages.Use(self.name, float(wait)))

    async def ensure_ready(self, wait: float) -> None:
        """Returns when the engine is ready.

        Raises:
            EngineUnavailable: it could not start, or was not ready within `wait` seconds.
        """
        await self._contact.ask(messages.EnsureReady(self.name, float(wait)), messages.Done)

    async def death_noticed(self) -> float:
        """Returns when the owner knows of its death, with how many seconds it is likely to take until it is back."""
        return (await self._contact.ask(messages.DeathNoticed(self.name), messages.Expected)).seconds

    def cannot_answer(self) -> None:
        """The engine has said of itself that it cannot answer any more: the owner replaces it."""
        self._contact.tell(messages.CannotAnswer(self.name))
