"""One supervised child process: started when it is wanted, watched, restarted, told to stop.

The contract, in five sentences. One task, `_own`, is the only writer of the state; everyone else asks for readiness and
waits. Callers who arrive during a start share it. A start that fails is reported to all who wait, and not tried again
before its back-off has passed and somebody asks. A child that dies when it was ready is started again at once, then
with growing pauses. It ends when we do, even when we are killed: `child.py` holds it on a leash.
"""

import asyncio
import logging
import random
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Self

from msgspec import Struct

from gateway.child import Child
from gateway.errors import EngineUnavailable

log = logging.getLogger(__name__)
progress = logging.getLogger("gateway.progress")  # what someone who waits at a terminal wants to see

FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 30.0
STEADY_AFTER = 60.0  # a child that lived this long starts its pauses anew
PROBE_EVERY = 0.1
WATCH_EVERY = 5.0
MOST_SILENT = 6  # probes in a row: an engine answers about its health while it computes
NOTICE_PATIENCE = 1.0  # until the owner has noticed that its child is dead
TAIL_LINES = 20
PUBLIC_MARK = "altgate: "  # a child's last line that begins so may be shown to a client


class State(StrEnum):
    """What a child is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class Health(Struct, frozen=True):
    """What a child says of itself. `progress` is a fraction of 1."""

    ready: bool
    phase: str | None = None
    progress: float | None = None
    device: str | None = None


Probe = Callable[[], Awaitable[Health | None]]
"""Asks the child how it is; None when it does not answer yet."""


class Process:
    """A child process with its life. Use it as an async context manager."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        probe: Probe,
        *,
        start_timeout: float,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.state = State.STOPPED
        self.health = Health(ready=False)
        self.reason: str | None = None
        self._command = command
        self._probe = probe
        self._start_timeout = start_timeout
        self._environ = environ
        self._child: Child | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._wanted = asyncio.Event()
        self._changed = asyncio.Condition()
        self.failed_starts = 0
        self._pauses = 0
        self._retry_at = 0.0
        self._owner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._owner = asyncio.create_task(self._own(), name=f"process {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.pid if self._child is not None else None

    def want(self) -> None:
        """Starts the child in the background, unless it runs."""
        self._wanted.set()

    async def ensure_ready(self, wait: float) -> None:
        """Returns when the child is ready, starting it if need be.

        Raises:
            EngineUnavailable: it could not start, or was not ready within `wait` seconds.
        """
        if self.state is State.READY:
            return
        if self.state is State.FAILED and (left := self._retry_at - time.monotonic()) > 0:
            raise self._unavailable(left)
        failed_before = self.failed_starts
        self.want()
        try:
            async with asyncio.timeout(wait), self._changed:
                await self._changed.wait_for(lambda: self.state is State.READY or self.failed_starts > failed_before)
        except TimeoutError:
            raise self._still_loading() from None
        if self.failed_starts > failed_before:
            raise self._unavailable(max(1.0, self._retry_at - time.monotonic()))

    async def death_noticed(self) -> None:
        """Returns when the owner knows what the caller has just seen: that the child does not answer any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_PATIENCE), self._changed:
                await self._changed.wait_for(lambda: self.state is not State.READY)

    def _unavailable(self, retry_after: float) -> EngineUnavailable:
        error = EngineUnavailable(f"The model '{self.name}' cannot be served: {self.reason}.", retry_after=retry_after)
        error.heals = False
        return error

    def _still_loading(self) -> EngineUnavailable:
        done = f" ({self.health.progress:.0%} done)" if self.health.progress is not None else ""
        return EngineUnavailable(f"The model '{self.name}' is still loading{done}. Try again soon.", retry_after=5.0)

    # --- the owner: everything below writes the state and runs in one task ---

    async def _own(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                await self._live_or_fail()
        finally:
            self.state = State.STOPPED

    async def _live_or_fail(self) -> None:
        try:
            await self._live()
        except OSError as error:
            await self._fail(f"its process could not be started ({error.strerror})")
        except Exception:
            log.exception("%s: its supervision failed", self.name)
            await self._fail("its supervision failed; the gateway's log says more")

    async def _live(self) -> None:
        """One life of the child, from its start to its end."""
        self._tail.clear()
        self.health = Health(ready=False)
        await self._turn(State.STARTING)
        progress.info("%s: starting", self.name)
        started = time.monotonic()
        child = self._child = await Child.spawn(self._command, self._environ, self._log_line)
        try:
            overdue = await self._await_ready(child)
            became_ready = self.health.ready
            if became_ready:
                progress.info("%s: ready after %.1f s", self.name, time.monotonic() - started)
                await self._turn(State.READY)
                await self._watch(child)
            code = await child.wait()
        finally:
            self.state = State.STOPPING if child.running else self.state
            await child.close()
            self._child = None
        if became_ready:
            await self._mourn(code, time.monotonic() - started)
        else:
            await self._fail(overdue or self._public_reason(code))

    async def _await_ready(self, child: Child) -> str | None:
        """Returns when the child is ready or has ended. One that takes too long is killed, and the reason returned."""
        deadline = time.monotonic() + self._start_timeout
        while child.running:
            if (health := await self._probe()) is not None:
                self._note(health)
                if health.ready:
                    return None
            if time.monotonic() > deadline:
                child.kill()
                return f"it was not ready within {self._start_timeout:.0f} seconds"
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY):
                    await child.wait()
        return None

    async def _watch(self, child: Child) -> None:
        """Returns when the child has ended; one that has not answered for a while is killed."""
        silent = 0
        while child.running:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_EVERY):
                    await child.wait()
            silent = 0 if not child.running or await self._probe() else silent + 1
            if silent >= MOST_SILENT:
                log.error("%s: has not answered for %d probes and is killed", self.name, silent)
                child.kill()
                await child.wait()

    def _note(self, health: Health) -> None:
        if health.phase is not None and health != self.health:
            done = f" {health.progress:.0%}" if health.progress is not None else ""
            progress.info("%s: loading, %s%s", self.name, health.phase, done)
        self.health = health

    async def _mourn(self, code: int, lived: float) -> None:
        """A child that had been ready has died: it is started again after a pause."""
        log.error("%s: ended with exit code %s; its last lines:\n%s", self.name, code, "\n".join(self._tail))
        self.health = Health(ready=False)
        await self._turn(State.STARTING)
        if lived > STEADY_AFTER:
            self._pauses = 0
        if self._pauses:
            await asyncio.sleep(self._pause())
        self._pauses += 1

    async def _fail(self, reason: str) -> None:
        """A start has failed: all who wait are told, and the next try waits for somebody to ask."""
        log.error("%s: could not start: %s; its last lines:\n%s", self.name, reason, "\n".join(self._tail))
        self.reason = reason
        self.health = Health(ready=False)
        self.failed_starts += 1
        self._pauses += 1
        self._retry_at = time.monotonic() + self._pause()
        self._wanted.clear()
        await self._turn(State.FAILED)

    def _pause(self) -> float:
        """Seconds until the next start: doubled each time, with jitter so that models do not start in step."""
        doubled = FIRST_PAUSE * 2.0 ** min(self._pauses, 10)
        return min(LONGEST_PAUSE, doubled) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret hangs on it

    def _public_reason(self, code: int) -> str:
        last = self._tail[-1] if self._tail else ""
        if last.startswith(PUBLIC_MARK):
            return last.removeprefix(PUBLIC_MARK).rstrip(".")
        if code == -signal.SIGKILL:
            return "its engine was killed while it started, as happens when memory runs out; free some or use less"
        return f"its engine ended with exit code {code} while it started; the gateway's log has its last lines"

    async def _turn(self, state: State) -> None:
        async with self._changed:
            self.state = state
            if state is State.READY:
                self.reason = None
            self._changed.notify_all()

    def _log_line(self, line: str) -> None:
        if line:
            self._tail.append(line)
            log.info("%s: %s", self.name, line)
