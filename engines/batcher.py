"""Queue -> batch under a budget -> outputs per entry. Knows neither torch nor HTTP.

One worker thread runs the model; asyncio callers wait for what it makes. The life of an entry:

1. `submit` puts it into a bounded queue, or raises `QueueFull`;
2. `next_batch`, a pure function, picks the entries that run together;
3. the worker steps through `run(jobs, gone)` and hands each step's outputs over to their callers' event loops;
4. a caller that closes its entry is dropped: from the queue at once, from a running batch at its next step;
5. what the run raises reaches every entry of its batch as `RunFailed`, and the worker goes on with the next one.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Job_contra = TypeVar("Job_contra", contravariant=True)
Output = TypeVar("Output")
Output_co = TypeVar("Output_co", covariant=True)

FIRST_GUESS = 1.0
RECENT = 0.3


class QueueFull(Exception):
    """No room to wait in. `retry_after` is in seconds: about when those who wait now will have been served."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; try again in {retry_after:.1f} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The batcher was closed before the entry was served."""


class RunFailed(Exception):
    """The run of the entry's batch raised; its cause, which is logged, is what it raised."""


class Run(Protocol[Job_contra, Output_co]):
    """What serves a batch: one item per step, the outputs of that step with the index of the job each belongs to.

    `gone(index)` says between steps whether that job's caller has left. The generator runs in the worker's thread
    and is closed early when every caller has left.
    """

    def __call__(
        self, jobs: Sequence[Job_contra], gone: Callable[[int], bool], /
    ) -> Generator[Sequence[tuple[int, Output_co]], None, None]:
        """Serves the jobs together."""


# --- the arithmetic: no clock, no I/O -------------------------------------------------------------------------------


class Waiting(Protocol):
    """What the arithmetic sees of an entry: only entries of one kind share a batch, and `cost` counts in rows."""

    @property
    def kind(self) -> Hashable:
        """Entries of different kinds cannot run together."""

    @property
    def cost(self) -> int:
        """Its share of the budget."""

    @property
    def gone(self) -> bool:
        """Nobody waits for it any more."""


W = TypeVar("W", bound=Waiting)


def next_batch(waiting: Sequence[W], budget: int) -> tuple[list[W], list[W]]:
    """Splits what waits into the next batch and what stays, both in order of arrival; who has gone is in neither.

    The head of the queue decides the kind. A batch ends at the first entry of its kind that does not fit, so that a
    large one is not overtaken by small ones for ever.
    """
    here = [entry for entry in waiting if not entry.gone]
    batch: list[W] = []
    stay: list[W] = []
    room, closed = budget, False
    for entry in here:
        if closed or entry.kind != here[0].kind:
            stay.append(entry)
        elif entry.cost > room:
            closed = True
            stay.append(entry)
        else:
            batch.append(entry)
            room -= entry.cost
    return batch, stay


def wait_estimate(waiting_cost: int, budget: int, batch_seconds: float) -> float:
    """Seconds until everything that waits will have been started, after the batch that runs now."""
    return (1 + waiting_cost // budget) * batch_seconds


# --- the machine ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Entry(Generic[Job, Output]):
    job: Job
    kind: Hashable
    cost: int
    loop: asyncio.AbstractEventLoop
    outputs: "asyncio.Queue[Output | BaseException | None]"
    gone: bool = False


def _tell(told: "Sequence[tuple[_Entry[Job, Output], Output | BaseException | None]]") -> None:
    """Carries outputs, errors and ends (None) from the worker's thread to the event loops of their callers.

    All that is for one loop goes at once: to wake a loop may cost the thread its turn, of which a step has few.
    """
    for loop in {entry.loop for entry, _ in told}:
        here = [(entry, item) for entry, item in told if entry.loop is loop]
        try:
            loop.call_soon_threadsafe(_put, here)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            for entry, _ in here:
                entry.gone = True


def _put(told: "Sequence[tuple[_Entry[Job, Output], Output | BaseException | None]]") -> None:
    for entry, item in told:
        entry.outputs.put_nowait(item)


class Submission(Generic[Job, Output]):
    """The outputs of one entry, as they are made. Close it, finished or not: `with contextlib.closing(...)`."""

    def __init__(self, entry: _Entry[Job, Output]) -> None:
        self._entry = entry

    def __aiter__(self) -> "Submission[Job, Output]":
        return self

    async def __anext__(self) -> Output:
        item = await self._entry.outputs.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """The caller leaves; nothing more is made for it."""
        self._entry.gone = True


class Batcher(Generic[Job, Output]):
    """Serves jobs in batches of at most `budget` rows; at most `queue_limit` entries wait.

    `kind` and `cost` say what the arithmetic needs to know of a job. `clock` counts seconds. `failed` is called in the
    worker's thread after a run that raised, when its callers have been told.
    """

    def __init__(
        self,
        run: Run[Job, Output],
        *,
        kind: Callable[[Job], Hashable],
        cost: Callable[[Job], int],
        budget: int,
        queue_limit: int,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self.budget = budget
        self._failed = failed
        self._run = run
        self._kind = kind
        self._cost = cost
        self._queue_limit = queue_limit
        self._clock = clock
        self._batch_seconds = FIRST_GUESS
        self._changed = threading.Condition()
        self._waiting: deque[_Entry[Job, Output]] = deque()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._worker.start()

    def ensure_room(self) -> None:
        """Raises QueueFull when a job submitted now would be refused: ask before preparing it."""
        with self._changed:
            self._ensure_room()

    def submit(self, job: Job) -> Submission[Job, Output]:
        """Queues a job; to be called in the event loop that will await its outputs.

        Raises:
            QueueFull: `queue_limit` entries wait already.
            ValueError: the job costs more than the whole budget.
            Closed: the batcher is closed.
        """
        cost = self._cost(job)
        if cost > self.budget:
            raise ValueError(f"a job of {cost} rows exceeds the budget of {self.budget}")
        entry = _Entry[Job, Output](job, self._kind(job), cost, asyncio.get_running_loop(), asyncio.Queue())
        with self._changed:
            if self._closing:
                raise Closed
            self._ensure_room()
            self._waiting.append(entry)
            self._changed.notify()
        return Submission(entry)

    async def close(self) -> None:
        """Stops at the next step. Entries that were not served end with `Closed`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._worker.join)

    def _ensure_room(self) -> None:
        waiting = [entry for entry in self._waiting if not entry.gone]
        if len(waiting) >= self._queue_limit:
            cost = sum(entry.cost for entry in waiting)
            raise QueueFull(wait_estimate(cost, self.budget, self._batch_seconds))
        self._waiting = deque(waiting)

    def _work(self) -> None:
        while batch := self._take():
            began = self._clock()
            self._serve(batch)
            self._batch_seconds += RECENT * (self._clock() - began - self._batch_seconds)
        _tell([(entry, Closed()) for entry in self._waiting])

    def _take(self) -> list[_Entry[Job, Output]]:
        """Waits for the next batch; empty when the batcher closes."""
        with self._changed:
            while not self._closing:
                batch, stay = next_batch(self._waiting, self.budget)
                self._waiting = deque(stay)
                if batch:
                    return batch
                self._changed.wait()
            return []

    def _serve(self, batch: Sequence[_Entry[Job, Output]]) -> None:
        failure: Exception | None = None
        try:
            self._step_through(batch)
        except Closed as closed:
            failure = closed
        except BaseException as error:  # a panic of a Rust library is no Exception, and must be told too
            log.exception("a batch of %d failed", len(batch))
            traceback.clear_frames(error.__traceback__)  # they hold the batch's memory, in a cycle that is found late
            failure = RunFailed()
            failure.__cause__ = error
        _tell([(entry, failure) for entry in batch])
        if isinstance(failure, RunFailed):
            self._failed()

    def _step_through(self, batch: Sequence[_Entry[Job, Output]]) -> None:
        with closing(self._run([entry.job for entry in batch], lambda index: batch[index].gone)) as steps:
            for outputs in steps:
                _tell([(batch[index], output) for index, output in outputs])
                if self._closing:
                    raise Closed
                if all(entry.gone for entry in batch):
                    return
