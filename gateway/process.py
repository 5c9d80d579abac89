"""A supervised child process with a life of its own: one owner task, named states, everything else asks.

    stopped ──want──> starting ──ready──> ready ──rest──> stopping ──> stopped
                         │  ▲              │  ▲ └─rest, where it can nap──> asleep ──want──┐
                         ▼  └───crash──────┘  └────────────────────────────────────────────┘
                       failed ──want, after its back-off──> starting

Only the owner task writes the state. Callers who arrive during a start share it. A start that fails is reported to all
who wait, and not tried again before its back-off has passed and somebody asks. A child that dies when it was ready is
started again at once, then with growing pauses. It ends when we do, even when we are killed: `child.py` holds it on a
leash.
"""

import asyncio
import logging
import random
import re
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Self

from msgspec import Struct

from gateway.backoff import Backoff
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
NAP_PATIENCE = 60.0  # seconds that falling asleep or waking up may take
UNKNOWN_LOAD = 10.0  # seconds: what is told of a load that was never measured
LONGEST_RETRY = 60.0  # OpenAI's clients do not come back at all when told to wait for longer than two minutes
TAIL_LINES = 20
PUBLIC_MARK = "altgate: "  # a child's last line that begins so may be shown to a client
LOADING_LINE = re.compile(r"altgate-loading: (?P<phase>[\w ]{1,40}) (?P<progress>[01](\.\d{1,6})?)")  # how far it is


class State(StrEnum):
    """What a child is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
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


class Nap(Struct, frozen=True):
    """How a child is put to sleep, which frees the device and keeps the rest, and how it is woken.

    Both raise OSError or TimeoutError when the child does not do it.
    """

    sleep: Callable[[], Awaitable[None]]
    wake: Callable[[], Awaitable[None]]


def nothing_missing() -> str | None:
    """No reason against a start."""
    return None


class Process:
    """A child process with its life. Use it as an async context manager.

    Args:
        name: the model's name.
        command: what starts the child.
        probe: asks it how it is.
        start_timeout: seconds until a start that is not ready counts as failed.
        environ: the child's environment.
        nap: how it sleeps, where it can.
        obstacle: called before each start; says why it cannot succeed, or None.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        probe: Probe,
        *,
        start_timeout: float,
        environ: Mapping[str, str] | None = None,
        nap: Nap | None = None,
        obstacle: Callable[[], str | None] = nothing_missing,
    ) -> None:
        self.name = name
        self.state = State.STOPPED
        self.health = Health(ready=False)
        self.reason: str | None = None
        self.load_seconds: float | None = None
        self.wake_seconds: float | None = None
        self.failed_starts = 0
        self.on_change: Callable[[], None] = lambda: None
        self._command = command
        self._probe = probe
        self._start_timeout = start_timeout
        self._environ = environ
        self._nap = nap
        self._obstacle = obstacle
        self._child: Child | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._wanted = asyncio.Event()
        self._told = asyncio.Event()  # set when `_wanted` has changed, for an owner that watches its child
        self._changed = asyncio.Condition()
        self._since = 0.0
        self._backoff = Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE)
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

    @property
    def backing_off(self) -> bool:
        """Whether a start has failed and is not to be tried again yet."""
        return self.state is State.FAILED and self._retry_at > time.monotonic()

    def want(self) -> None:
        """Starts or wakes the child in the background, unless it runs."""
        self._wanted.set()
        self._told.set()

    def rest(self) -> None:
        """Lets the child leave the device: asleep where it can, else ended. Takes effect once it is ready."""
        self._wanted.clear()
        self._told.set()

    async def ensure_ready(self, wait: float) -> None:
        """Returns when the child is ready, starting it if need be.

        Raises:
            EngineUnavailable: it could not start, or was not ready within `wait` seconds.
        """
        if self.state is State.READY:
            return
        if self.backing_off:
            raise self.unavailable()
        failed_before = self.failed_starts
        self.want()
        try:
            async with asyncio.timeout(wait), self._changed:
                await self._changed.wait_for(lambda: self.state is State.READY or self.failed_starts > failed_before)
        except TimeoutError:
            raise self._still_loading() from None
        if self.failed_starts > failed_before:
            raise self.unavailable()

    async def death_noticed(self) -> None:
        """Returns when the owner knows what the caller has just seen: that the child does not answer any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(NOTICE_PATIENCE), self._changed:
                await self._changed.wait_for(lambda: self.state is not State.READY)

    def unavailable(self) -> EngineUnavailable:
        """What is told when a start has failed."""
        left = max(1.0, self._retry_at - time.monotonic())
        error = EngineUnavailable(f"The model '{self.name}' cannot be served: {self.reason}.", retry_after=left)
        error.heals = False
        return error

    def expected_seconds(self) -> float:
        """How long until it is likely to be ready, from what its loads and wakings took; varied, for many may ask."""
        measured = self.wake_seconds if self.state is State.ASLEEP else self.load_seconds
        elapsed = time.monotonic() - self._since if self.state is State.STARTING else 0.0
        left = (measured or UNKNOWN_LOAD) - elapsed
        return min(LONGEST_RETRY, max(1.0, left) * random.uniform(1.0, 1.25))  # noqa: S311 - no secret hangs on it

    def _still_loading(self) -> EngineUnavailable:
        done = f" ({self.health.progress:.0%} done)" if self.health.progress is not None else ""
        return EngineUnavailable(
            f"The model '{self.name}' is still loading{done}. Try again soon.", retry_after=self.expected_seconds()
        )

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
        if obstacle := self._obstacle():
            await self._fail(obstacle)
            return
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
                self.load_seconds = time.monotonic() - started
                progress.info("%s: ready after %.1f s", self.name, self.load_seconds)
                await self._turn(State.READY)
                await self._serve(child)
                if time.monotonic() - started > self.load_seconds + STEADY_AFTER:
                    self._backoff.recovered()
            resting = child.running
            if resting:
                await self._turn(State.STOPPING)
        finally:
            self.state = State.STOPPING if child.running else self.state
            await child.close()
            self._child = None
        code = await child.wait()
        if resting:
            progress.info("%s: unloaded", self.name)
            await self._turn(State.STOPPED)
        elif became_ready:
            await self._mourn(code)
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
                await child.wait()
                return f"it was not ready within {self._start_timeout:.0f} seconds"
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_EVERY):
                    await child.wait()
        return None

    async def _serve(self, child: Child) -> None:
        """Returns when the child has ended or is to be ended. One that cannot sleep or wake as it should is killed."""
        while child.running:
            await self._watch(child)
            if not child.running or self._nap is None:
                return
            try:
                await self._sleep(self._nap, child)
                if child.running:
                    await self._wake(self._nap)
            except (OSError, TimeoutError):
                log.exception("%s: did not fall asleep or wake up, and is killed", self.name)
                child.kill()
                await child.wait()

    async def _watch(self, child: Child) -> None:
        """Returns when the child has ended or is not wanted any more; one that has not answered for long is killed."""
        silent = 0
        while child.running and self._wanted.is_set():
            await self._until_told(child, WATCH_EVERY)
            silent = 0 if not child.running or await self._probe() else silent + 1
            if silent >= MOST_SILENT:
                log.error("%s: has not answered for %d probes and is killed", self.name, silent)
                child.kill()
                await child.wait()

    async def _until_told(self, child: Child, patience: float | None) -> None:
        """Returns when the child has ended, when it is told to rest or is wanted again, or after `patience` seconds."""
        self._told.clear()
        waits = [asyncio.ensure_future(child.wait()), asyncio.ensure_future(self._told.wait())]
        try:
            await asyncio.wait(waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _sleep(self, nap: Nap, child: Child) -> None:
        """Puts the child to sleep; returns when it is wanted again or has ended."""
        await self._turn(State.STOPPING)
        async with asyncio.timeout(NAP_PATIENCE):
            await nap.sleep()
        progress.info("%s: asleep", self.name)
        await self._turn(State.ASLEEP)
        while child.running and not self._wanted.is_set():
            await self._until_told(child, None)

    async def _wake(self, nap: Nap) -> None:
        await self._turn(State.STARTING)
        started = time.monotonic()
        async with asyncio.timeout(NAP_PATIENCE):
            await nap.wake()
        self.wake_seconds = time.monotonic() - started
        progress.info("%s: awake after %.1f s", self.name, self.wake_seconds)
        await self._turn(State.READY)

    def _note(self, health: Health) -> None:
        if health.phase is not None and health != self.health:
            done = f" {health.progress:.0%}" if health.progress is not None else ""
            progress.info("%s: loading, %s%s", self.name, health.phase, done)
        self.health = health

    async def _mourn(self, code: int) -> None:
        """A child that had been ready has died: it is started again after a pause, where it is still wanted."""
        log.error("%s: ended with exit code %s; its last lines:\n%s", self.name, code, "\n".join(self._tail))
        self.health = Health(ready=False)
        if not self._wanted.is_set():
            await self._turn(State.STOPPED)
            return
        await self._turn(State.STARTING)
        at_once = self._backoff.failures == 0
        pause = self._backoff.failed()
        if not at_once:
            await asyncio.sleep(pause)

    async def _fail(self, reason: str) -> None:
        """A start has failed: all who wait are told, and the next try waits for somebody to ask."""
        log.error("%s: could not start: %s; its last lines:\n%s", self.name, reason, "\n".join(self._tail))
        self.reason = reason
        self.health = Health(ready=False)
        self.failed_starts += 1
        self._retry_at = time.monotonic() + self._backoff.failed()
        self._wanted.clear()
        await self._turn(State.FAILED)

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
            self._since = time.monotonic()
            if state is State.READY:
                self.reason = None
            self._changed.notify_all()
        self.on_change()

    def _log_line(self, line: str) -> None:
        if loading := LOADING_LINE.fullmatch(line):
            if self.state is State.STARTING:
                done = min(1.0, float(loading["progress"]))
                self._note(Health(ready=False, phase=loading["phase"], progress=done))
        elif line:
            self._tail.append(line)
            log.info("%s: %s", self.name, line)
