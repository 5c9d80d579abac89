"""The Engine seam: chat completions in, chat completions out. `local.py` and `remote.py` are its two kinds."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from gateway import wire
from gateway.life import State

Ask = Callable[[], Awaitable[wire.ChatRequest]]
"""Builds the request. Called once, when the engine can work on it: until then its pictures need not be decoded."""


class Status(Struct, frozen=True):
    """What an engine is doing, for `/v1/models` and the banner. `progress` is a fraction of 1.

    `can_serve` is False when a request would now fail, or wait for a first load.
    """

    state: State
    phase: str | None = None
    progress: float | None = None
    device: str | None = None
    reason: str | None = None
    can_serve: bool = False


class Engine(Protocol):
    """What answers for one model. Use it as an async context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def status(self) -> Status:
        """What it is doing; advisory, it may have changed when it is read."""
        ...

    def want(self) -> None:
        """Loads it in the background, and again after a start that failed."""
        ...

    async def complete(self, ask: Ask, *, wait: float | None = None) -> wire.ChatCompletion:
        """A whole answer. `wait` is how many seconds to wait for a load, None for what is configured."""
        ...

    def stream(self, ask: Ask, *, wait: float | None = None) -> AsyncGenerator[wire.Chunk, None]:
        """The answer as it is made. Closing the generator ends the work."""
        ...
