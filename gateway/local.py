"""An engine on this machine: a supervised process that speaks chat completions on a Unix socket."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from gateway import wire
from gateway.engine import Ask, Status
from gateway.fleet import Fleet
from gateway.life import Nap, State
from gateway.line import Line, Visit
from gateway.process import Process, nothing_missing

MOST_UNANSWERED = 3  # requests
STALE_AFTER_SLEEP = ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")


class LocalEngine:
    """An engine of this machine. Use it as an async context manager, inside its fleet.

    It is the keeper of its own process, for this process's requests and for those of workers.

    Args:
        name: the model's name.
        command: what starts the process.
        socket: the path of its Unix socket.
        fleet: shares out the places for loaded engines.
        environ: the process's environment.
        start_timeout: seconds until a start that is not ready counts as failed.
        cold_start_wait: seconds that a request waits for a start, unless it says otherwise.
        request_timeout: seconds that a request may take once the engine is ready.
        sleeps: whether it can sleep instead of being stopped.
        obstacle: says why it cannot be started, or None.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        socket: str,
        *,
        fleet: Fleet,
        environ: Mapping[str, str],
        start_timeout: float,
        cold_start_wait: float,
        request_timeout: float,
        sleeps: bool = False,
        obstacle: Callable[[], str | None] = nothing_missing,
    ) -> None:
        self.name = name
        self.socket = socket
        self._start_timeout = start_timeout
        self._request_timeout = request_timeout
        self._loading: asyncio.Task[None] | None = None
        self._unanswered = 0
        self._heard_at = self._unanswered_since = 0.0
        self._line = Line(name, socket, self, cold_start_wait=cold_start_wait, request_timeout=request_timeout)
        self.process = Process(
            name,
            command,
            self._line.probe,
            start_timeout=start_timeout,
            environ=environ,
            nap=Nap(self._sleep, self._wake) if sleeps else None,
            obstacle=obstacle,
        )
        self.seat = fleet.seat(self.process)

    async def __aenter__(self) -> Self:
        await self._line.__aenter__()
        await self.process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.process.__aexit__(kind, error, trace)
        await self._line.__aexit__(kind, error, trace)

    @property
    def status(self) -> Status:
        """What the process is doing."""
        state, health = self.process.state, self.process.health
        return Status(
            state,
            health.phase,
            health.progress,
            health.device,
            self.process.reason,
            can_serve=self.process.load_seconds is not None and state is not State.FAILED,
        )

    def want(self) -> None:
        """Loads it in the background, as soon as there is a place, and after a start that failed again."""
        if self._loading is None:
            self._loading = asyncio.create_task(self.seat.preload(self._start_timeout))

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

    # --- its keeper ---

    @asynccontextmanager
    async def visited(self, wait: float) -> AsyncIterator[Visit]:
        """The engine, ready, and not to be unloaded while the context lasts.

        Raises:
            EngineUnavailable: it could not start, or it was not its turn or not ready within `wait` seconds.
        """
        async with self.seat.taken(wait):
            visit, since = Visit(), time.monotonic()
            try:
                yield visit
            finally:
                self._note(visit, since)

    async def ensure_ready(self, wait: float) -> None:
        """Returns when the engine is ready.

        Raises:
            EngineUnavailable: it could not start, or was not ready within `wait` seconds.
        """
        await self.process.ensure_ready(wait)

    async def death_noticed(self) -> float:
        """Returns when its death is known, with how many seconds it is likely to take until it is back."""
        await self.process.death_noticed()
        return self.process.expected_seconds()

    def cannot_answer(self) -> None:
        """The engine has said of itself that it cannot answer any more: it is replaced."""
        self.process.give_up("it says that it cannot answer any more")

    def _note(self, visit: Visit, since: float) -> None:
        """Counts requests that met their limit unanswered. An engine that answers none, whatever its health, hangs."""
        now = time.monotonic()
        if visit.heard_at is not None and visit.heard_at > self._heard_at:
            self._heard_at = visit.heard_at
        if self._heard_at >= self._unanswered_since:
            self._unanswered = 0
        if visit.heard_at is None and now >= since + self._request_timeout and self._heard_at < since:
            self._unanswered_since = since
            self._unanswered += 1
        if self._unanswered == MOST_UNANSWERED:
            self._unanswered = 0
            self.process.give_up(f"it left {MOST_UNANSWERED} requests in a row without an answer")

    # --- its sleep ---

    async def _sleep(self) -> None:
        await self._line.command("/sleep?level=1")

    async def _wake(self) -> None:
        await self._line.command("/wake_up")
        # What was kept of earlier requests lay in memory that is gone; vLLM does not notice by itself.
        for path in STALE_AFTER_SLEEP:
            await self._line.command(path)
