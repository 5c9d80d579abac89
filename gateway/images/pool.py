"""Decodes pictures in processes of their own, in line for memory and for a worker.

A worker that crashes, or is not done in time, is killed. That costs the one picture that it was at; a picture that did
so twice is refused for a while. One whose worker was killed by somebody else is given to another worker, once.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from gateway.errors import Overloaded
from gateway.images import task
from gateway.images.aside import aside
from gateway.images.budget import Budget
from gateway.images.decoder import Decoder, DecoderDied, DecoderExhausted, DecoderKilled
from gateway.images.quarantine import Quarantine
from gateway.images.shared import Memory
from gateway.images.sniff import Format
from gateway.images.staff import Staff
from gateway.images.task import Outcome, Reason, Task

log = logging.getLogger(__name__)

LONGEST_WAIT = 30.0  # seconds in line
SLOWNESS = 5  # times what a task may take of the processor: others want it as well
LINGER = 0.1  # seconds that a task may go on when nobody waits for it any more: less than a new worker costs
_SHOWN = 12  # digits of a digest in the log

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class NotDecoded(Exception):
    """The picture cannot be decoded, for this reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class NoRoom(Overloaded):
    """There is no memory left for the result."""


class Room(Protocol[T_co]):
    """Where a worker writes a picture: shared memory, or a file in memory. A context manager."""

    descriptor: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def reserve(self, size: int) -> None:
        """Gets so many bytes, or raises OSError."""

    def taken(self, used: int) -> T_co:
        """What it is worth, once a worker has written so many bytes."""
        ...


class Pool:
    """Decodes pictures. Use it as an async context manager.

    Args:
        formats: what its workers can be asked for.
        most_memory: bytes that all pictures in work may take together.
        workers: how many are at work at most; by default, one for each processor.
        budget: where that memory comes from, when others have it as well.
    """

    def __init__(
        self,
        formats: Sequence[Format],
        *,
        most_memory: int,
        workers: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        at_work = workers or processors()
        self.budget = budget or Budget(most_memory)
        self._staff = Staff(task.command_line(formats, most_memory), at_work)
        self._places = asyncio.Semaphore(at_work)
        self._quarantine = Quarantine()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.lost = 0  # workers that died over a picture, or were too slow with it

    async def __aenter__(self) -> "Pool":
        await self._staff.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._tasks:
            running.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._staff.__aexit__(kind, error, trace)

    async def decode(self, wanted: Task, data: bytes, digest: str, room: Callable[[], Room[T]]) -> T:
        """The decoded picture, of at most `wanted.room` bytes, as its room gives it.

        `digest` is what `data` is known by.

        Raises:
            NotDecoded: it cannot be decoded.
            Overloaded: there was no memory for it, or no worker, in time.
        """
        self._look_up(digest)
        work = asyncio.create_task(self._in_line(wanted, data, digest, room))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(LINGER, work.cancel)
            work.add_done_callback(_ignored)
            raise

    @property
    def in_line(self) -> int:
        """How many pictures are at work or wait for it."""
        return len(self._tasks)

    async def is_filtered(self) -> bool:
        """Whether the kernel filters the workers' system calls, once one of them is ready."""
        worker = await self._staff.take()
        self._staff.give_back(worker)
        return worker.filtered

    def _look_up(self, digest: str) -> None:
        if self._quarantine.holds(digest, time.monotonic()):
            raise NotDecoded("deadly")

    async def _in_line(self, wanted: Task, data: bytes, digest: str, room: Callable[[], Room[T]]) -> T:
        try:
            async with asyncio.timeout(LONGEST_WAIT) as waiting:
                async with self.budget.reserved(wanted.memory), self._places:
                    waiting.reschedule(None)
                    return await self._decoded(wanted, data, digest, room)
        except TimeoutError:
            raise _too_many() from None

    async def _decoded(self, wanted: Task, data: bytes, digest: str, room: Callable[[], Room[T]]) -> T:
        with ExitStack() as open_:
            try:
                encoded, result = open_.enter_context(Memory()), open_.enter_context(room())
                await aside(wanted.encoded, partial(encoded.hold, data))
                await aside(wanted.room, partial(result.reserve, wanted.room))
            except OSError:
                raise NoRoom("There is no memory left for this picture. Try again soon.", retry_after=5) from None
            outcome, used = await self._done(wanted, digest, encoded.descriptor, result.descriptor)
            if outcome is not Outcome.DONE:
                raise NotDecoded("memory" if outcome is Outcome.TOO_MUCH_MEMORY else "damaged")
            return result.taken(used)

    async def _done(self, wanted: Task, digest: str, encoded: int, result: int) -> tuple[Outcome, int]:
        """How the task went: on a second worker where the first was killed by somebody else."""
        try:
            with suppress(DecoderKilled):
                return await self._answer(await self._given(wanted, digest, encoded, result), wanted)
            log.warning("somebody has killed a worker over picture %s; another decodes it", digest[:_SHOWN])
            return await self._answer(await self._given(wanted, digest, encoded, result), wanted)
        except (DecoderDied, TimeoutError) as error:
            self._quarantine.strike(digest, time.monotonic())
            self.lost += 1
            reason: Reason = "time" if isinstance(error, TimeoutError | DecoderExhausted) else "damaged"
            log.warning("a worker is lost over picture %s (%s): %s", digest[:_SHOWN], reason, error or "too slow")
            raise NotDecoded(reason) from None

    async def _given(self, wanted: Task, digest: str, encoded: int, result: int) -> Decoder:
        """A worker that has the task, and is to be given back or dismissed."""
        while True:
            worker = await self._ready()
            try:
                self._look_up(digest)  # again: of many at once, the first may have shown what they do to workers
                worker.send(wanted, encoded, result)
            except DecoderDied:
                self._staff.dismiss(worker)
            except BaseException:
                self._staff.give_back(worker)
                raise
            else:
                return worker

    async def _ready(self) -> Decoder:
        try:
            async with asyncio.timeout(LONGEST_WAIT):
                return await self._staff.take()
        except TimeoutError:
            raise _too_many() from None

    async def _answer(self, worker: Decoder, wanted: Task) -> tuple[Outcome, int]:
        try:
            async with asyncio.timeout(wanted.seconds * SLOWNESS):
                answer = await worker.answer(wanted.room)
        except BaseException:
            self._staff.dismiss(worker)
            raise
        self._staff.give_back(worker)
        return answer


def _too_many() -> Overloaded:
    return Overloaded("Too many pictures wait to be decoded. Try again soon.", retry_after=5)


def processors() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ignored(work: asyncio.Task[Any]) -> None:
    """Nobody waits for how it ended."""
    if not work.cancelled():
        work.exception()
