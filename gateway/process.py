"""A supervised child process with a life of its own: one owner task, named states, everything else asks.

    stopped ──want──> starting ──ready──> ready ──rest──> stopping ──> stopped
                         │  ▲              │  ▲ └─rest, where it can nap──> asleep ──want──┐
                         ▼  └───crash──────┘  └────────────────────────────────────────────┘
                       failed ──want, after its back-off──> starting

Only the owner task writes the state. Callers who arrive during a start share it. A start that fails is reported to all
who wait, and not tried again before its back-off has passed and somebody asks. A child that dies when it was ready is
started again at once, then with growing pauses, until it is told to rest; so is one that is not well any more, which is
killed. It ends when we do, even when we are killed: `child.py` holds it on a leash.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from gateway.backoff import Backoff
from gateway.child import Child
from gateway.errors import LONGEST_RETRY, EngineUnavailable
from gateway.life import Health, Nap, Past, Probe, State
from gateway.output import Output

log = logging.getLogger(__name__)
progress = logging.getLogger("gateway.progress")  # what someone who waits at a terminal wants to see

FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 30.0
STEADY_AFTER = 60.0  # a child that lived this long starts its pauses anew
PROBE_EVERY = 0.1
WATCH_EVERY = 5.0
MOST_UNWELL = 6  # probes in a row: an engine answers about its health while it computes
NOTICE_PATIENCE = 1.0  # until the owner has noticed that its child is dead
NAP_PATIENCE = 60.0  # seconds that falling asleep or waking up may take
UNKNOWN_LOAD = 10.0  # seconds: what is told of a load that was never measured
DOWNLOAD = "download"  # a phase that later loads do not have, and that says nothing of how long they take


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
        self.past = Past()
        self.restarting = False  # by itself, after a death
        self.longest_nap: float | None = None  # seconds; then a child that sleeps is ended
        self.on_change: Callable[[], None] = lambda: None  # of the state
        self.on_news: Callable[[], None] = lambda: None  # of the state or of its health
        self._command = command
        self._probe = probe
        self._start_timeout = start_timeout
        self._environ = environ
        self._nap = nap
        self._obstacle = obstacle
        self._child: Child | None = None
        self._output = Output(name, self._note_loading)
        self._wanted = asyncio.Event()
        self._told = asyncio.Event()  # set when `_wanted` has changed, for an owner that watches its child
        self._changed = asyncio.Condition()
        self._load_began = 0.0
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
        """Lets the child leave the device: asleep where it is ready and can, else ended."""
        self._wanted.clear()
        self._told.set()

    def give_up(self, reason: str) -> None:
        """Kills a child that is ready but of no use, so that it is replaced; tells `reason` until it is ready again."""
        if self.state is State.READY and self._child is not None:
            log.error("%s: %s; it is killed", self.name, reason)
            self.reason = reason
            self._child.kill()

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

    async def start_failed(self) -> None:
        """Returns when a start has failed."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.state is State.FAILED)

    def unavailable(self) -> EngineUnavailable:
        """What is told when a start has failed."""
        left = max(1.0, self._retry_at - time.monotonic())
        error = EngineUnavailable(f"The model '{self.name}' cannot be served: {self.reason}.", retry_after=left)
        error.heals = False
        return error

    def expected_seconds(self) -> float:
        """How long until it is likely to be ready, from what its loads and wakings took; varied, for many may ask."""
        measured = self.wake_seconds if self.state is State.ASLEEP else self.load_seconds
        elapsed = time.monotonic() - self._load_began if self.state is State.STARTING else 0.0
        left = (measured or UNKNOWN_LOAD) - elapsed
        return min(LONGEST_RETRY, max(1.0, left) * random.uniform(1.0, 1.25))  # noqa: S311 - no secret hangs on it

    def _still_loading(self) -> EngineUnavailable:
        doing = "being restarted" if self.restarting else "still loading"
        done = f" ({self.health.progress:.0%} done)" if self.health.progress is not None else ""
        return EngineUnavailable(
            f"The model '{self.name}' is {doing}{done}. Try again soon.", retry_after=self.expected_seconds()
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
        self._output.begin()
        self.health = Health(ready=False)
        await self._turn(State.STARTING)
        progress.info("%s: starting", self.name)
        child = self._child = await Child.spawn(self._command, self._environ, self._output.read)
        try:
            overdue = await self._await_ready(child)
            became_ready = self.health.ready
            if became_ready:
                ready_at = time.monotonic()
                self.load_seconds = ready_at - self._load_began
                self.past.loads.add(self.load_seconds)
                progress.info("%s: ready after %.1f s", self.name, self.load_seconds)
                await self._turn(State.READY)
                await self._serve(child)
                if time.monotonic() - ready_at > STEADY_AFTER:
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
            await self._fail(overdue or self._output.why_it_did_not_start(code))

    async def _await_ready(self, child: Child) -> str | None:
        """Returns when the child is ready, has ended or is not wanted any more.

        One that takes too long is killed, and the reason returned.
        """
        deadline = time.monotonic() + self._start_timeout
        while child.running and self._wanted.is_set():
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
                if not child.running or not self._wanted.is_set():
                    return
                await self._wake(self._nap)
            except (OSError, TimeoutError):
                log.exception("%s: did not fall asleep or wake up, and is killed", self.name)
                child.kill()
                await child.wait()

    async def _watch(self, child: Child) -> None:
        """Returns when the child has ended or is not wanted any more; one that has not been well for long is killed."""
        unwell = 0
        while child.running and self._wanted.is_set():
            await self._until_told(child, WATCH_EVERY)
            health = await self._probe() if child.running else None
            unwell = 0 if health is not None and health.ready else unwell + 1
            if unwell >= MOST_UNWELL and child.running:
                self.give_up(f"it has not said for {unwell} probes that it is well")
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
        """Puts the child to sleep; returns when it is wanted again, has ended or has slept for too long."""
        await self._turn(State.STOPPING)
        async with asyncio.timeout(NAP_PATIENCE):
            await nap.sleep()
        progress.info("%s: asleep", self.name)
        await self._turn(State.ASLEEP)
        if not self._wanted.is_set():
            await self._until_told(child, self.longest_nap)

    async def _wake(self, nap: Nap) -> None:
        await self._turn(State.STARTING)
        async with asyncio.timeout(NAP_PATIENCE):
            await nap.wake()
        self.wake_seconds = time.monotonic() - self._load_began
        self.past.wakings.add(self.wake_seconds)
        progress.info("%s: awake after %.1f s", self.name, self.wake_seconds)
        await self._turn(State.READY)

    def _note(self, health: Health) -> None:
        if health.phase is not None and health != self.health:
            done = f" {health.progress:.0%}" if health.progress is not None else ""
            progress.info("%s: loading, %s%s", self.name, health.phase, done)
        if health.phase == DOWNLOAD:
            self._load_began = time.monotonic()
        self.health = health
        self.on_news()

    def _note_loading(self, health: Health) -> None:
        if self.state is State.STARTING:
            self._note(health)

    async def _mourn(self, code: int) -> None:
        """A child that had been ready has died: it is started again after a pause, where it is still wanted."""
        log.error("%s: ended with exit code %s; its last lines:\n%s", self.name, code, self._output.last_lines)
        self.health = Health(ready=False)
        if self._wanted.is_set():
            self.restarting = True
            self.past.restarts += 1
            await self._turn(State.STARTING)
            await self._pause_after_death()
        if not self._wanted.is_set():
            await self._turn(State.STOPPED)

    async def _pause_after_death(self) -> None:
        """None after the first death, then growing ones; ends early when the child is told to rest."""
        at_once = self._backoff.failures == 0
        pause = self._backoff.failed()
        if at_once:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                while self._wanted.is_set():
                    self._told.clear()
                    await self._told.wait()

    async def _fail(self, reason: str) -> None:
        """A start has failed: all who wait are told, and the next try waits for somebody to ask."""
        log.error("%s: could not start: %s; its last lines:\n%s", self.name, reason, self._output.last_lines)
        self.reason = reason
        self.health = Health(ready=False)
        self.failed_starts += 1
        self._retry_at = time.monotonic() + self._backoff.failed()
        self._wanted.clear()
        await self._turn(State.FAILED)

    async def _turn(self, state: State) -> None:
        async with self._changed:
            self.state = state
            if state is State.READY:
                self.reason = None
            if state is State.STARTING:
                self._load_began = time.monotonic()
            else:
                self.restarting = False
            self._changed.notify_all()
        self.on_change()
        self.on_news()
