"""The engines of this machine and the places that they share.

A request takes part in an engine for as long as it lasts. When the engine has no place, the request waits in line for
one; `turns.decide` says whose turn it is, and here it is done. Engines elsewhere need no place.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import NoReturn, Self

from gateway import turns
from gateway.errors import EngineUnavailable
from gateway.life import State
from gateway.process import Process

_WHERE: dict[State, turns.Whereabouts] = {
    State.STOPPED: "out",
    State.FAILED: "out",
    State.ASLEEP: "out",
    State.STARTING: "loading",
    State.READY: "loaded",
    State.STOPPING: "leaving",
}


class Fleet:
    """Shares out `max_loaded` places among engines; unloads those idle for `idle_timeout` seconds, None keeps them.

    One that sleeps instead of being unloaded is ended when it has slept for as long again.

    Use it as an async context manager, around its engines.
    """

    def __init__(self, *, max_loaded: int, idle_timeout: float | None = None) -> None:
        self._places = max_loaded
        self._idle_timeout = idle_timeout
        self._seats: list[Seat] = []
        self._next_look: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next_look is not None:
            self._next_look.cancel()

    def seat(self, process: Process) -> "Seat":
        """Takes a process into the fleet, which from now on says when it is loaded."""
        process.longest_nap = self._idle_timeout
        seat = Seat(process, self._nudge)
        self._seats.append(seat)
        return seat

    def _nudge(self) -> None:
        """Something has changed that may change the plan."""
        if self._idle_timeout is not None or any(seat.anyone_waits for seat in self._seats):
            self._share_out()

    def _share_out(self) -> None:
        """Does what the plan says, at once and again when time will have changed it."""
        now = time.monotonic()
        seen = [seat.seen() for seat in self._seats]
        plan = turns.decide(seen, places=self._places, now=now, idle_timeout=self._idle_timeout)
        for seat in self._seats:
            seat.follow(plan)
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if plan.look_again is not None:
            self._next_look = asyncio.get_running_loop().call_later(plan.look_again - now, self._share_out)


class Seat:
    """One engine's part in the fleet: who uses it, who waits for it."""

    def __init__(self, process: Process, nudge: Callable[[], None]) -> None:
        self._process = process
        self._nudge = nudge
        self._open = False
        self._leaving = False
        self._busy = 0
        self._line: dict[asyncio.Future[None], float] = {}
        self._swapping_since: float | None = None
        self._expected = False
        self._awaited_since = self._awaited_until = 0.0
        self._loaded_at: float | None = None
        self._last_used = 0.0
        process.on_change = self._process_changed

    @asynccontextmanager
    async def taken(self, wait: float) -> AsyncIterator[None]:
        """The engine, ready and not to be unloaded while the context lasts.

        Raises:
            EngineUnavailable: it could not start, or it was not its turn or not ready within `wait` seconds.
        """
        deadline = time.monotonic() + wait
        if self._process.backing_off:
            raise self._process.unavailable()
        if self._open and not self._line:
            self._busy += 1
        else:
            await self._call(wait)
        try:
            await self._become_ready(deadline - time.monotonic())
            yield
        finally:
            self._busy -= 1
            self._last_used = time.monotonic()
            self._nudge()

    async def preload(self, wait: float) -> NoReturn:
        """Loads the engine; whenever a start of it has failed, tries again after its back-off. Ends when cancelled."""
        while True:
            try:
                async with self.taken(wait):
                    pass
            except EngineUnavailable as error:
                await asyncio.sleep(error.retry_after or turns.GRACE)
            else:
                await self._process.start_failed()

    @property
    def anyone_waits(self) -> bool:
        """Whether somebody waits for a place, in line or told to come back."""
        return self._waiting_since is not None

    @property
    def in_line(self) -> int:
        """How many requests wait in line."""
        return len(self._line)

    def seen(self) -> turns.Seat:
        """How it stands now."""
        return turns.Seat(
            name=self._process.name,
            where=self._where,
            busy=self._busy,
            waiting_since=self._waiting_since,
            awaited_until=self._awaited_until if self._awaited else None,
            expected=self._expected,
            loaded_at=self._loaded_at or 0.0,
            last_used=self._last_used,
            load_seconds=self._process.wake_seconds or self._process.load_seconds or 0.0,
        )

    def follow(self, plan: turns.Plan) -> None:
        """Does its part of the plan."""
        name = self._process.name
        if name in plan.unload:
            self._open, self._leaving = False, True
            self._process.rest()
        elif name in plan.close:
            self._open = False
        elif name in plan.load:
            self._let_in()
            self._process.want()
        elif self._where in ("loading", "loaded", "restarting"):
            self._let_in()

    @property
    def _where(self) -> turns.Whereabouts:
        """Where it is, or is about to be: the process takes a moment to do what it is told."""
        where = _WHERE[self._process.state]
        if self._leaving:
            return "leaving"
        if self._process.restarting:
            return "restarting"
        return "loading" if where == "out" and self._open else where

    @property
    def _awaited(self) -> bool:
        """Whether somebody left the line, told to come back, and may do so."""
        return time.monotonic() < self._awaited_until

    @property
    def _waiting_since(self) -> float | None:
        waiting = [since for called, since in self._line.items() if not called.done()]
        if self._awaited:
            waiting.append(self._awaited_since)
        return min(waiting, default=None)

    async def _call(self, wait: float) -> None:
        """Waits in line to be let in, which counts as busy.

        Raises:
            EngineUnavailable: it was not its turn within `wait` seconds.
        """
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        is_first = not self.anyone_waits
        since = self._line[called] = time.monotonic()
        self._nudge()
        if is_first:
            self._swapping_since = since if self._where == "out" and not called.done() else None
        try:
            async with asyncio.timeout(wait):
                await called
        except BaseException as error:
            if called.done() and not called.cancelled():
                self._busy -= 1  # let in, and gone in the same moment
            if isinstance(error, TimeoutError):
                raise self._not_its_turn(since) from None
            raise
        finally:
            del self._line[called]
            self._nudge()

    def _not_its_turn(self, since: float) -> EngineUnavailable:
        retry_after = self._process.expected_seconds()
        if not self._awaited:
            self._awaited_since = since
        self._awaited_until = time.monotonic() + retry_after + turns.GRACE
        return EngineUnavailable(
            f"The model '{self._process.name}' waits for its turn: other models are in use. Try again soon.",
            retry_after=retry_after,
        )

    async def _become_ready(self, wait: float) -> None:
        try:
            await self._process.ensure_ready(max(0.0, wait))
        except EngineUnavailable:
            self._expected = True
            raise
        self._expected = False

    def _let_in(self) -> None:
        self._open = True
        self._expected |= self._awaited
        self._awaited_until = 0.0
        for called in self._line:
            if not called.done():
                called.set_result(None)
                self._busy += 1

    def _process_changed(self) -> None:
        where = _WHERE[self._process.state]
        if where == "loaded" and self._loaded_at is None:  # else it has died and come back, in the same turn
            self._loaded_at = self._last_used = time.monotonic()
            self._note_swap(self._loaded_at)
        if where in ("out", "leaving"):
            self._open = False
            self._loaded_at = None
        if where == "out":
            self._leaving = False
        self._nudge()

    def _note_swap(self, now: float) -> None:
        if self._swapping_since is not None:
            self._process.past.swaps.add(now - self._swapping_since)
        self._swapping_since = None
