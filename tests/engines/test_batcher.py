"""The batcher: which entries run together, who hears what, and who is dropped."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest

from engines.batcher import Batcher, Closed, QueueFull, RunFailed, next_batch, wait_estimate


@dataclass(frozen=True)
class Entry:
    name: str
    kind: int = 1
    cost: int = 1
    gone: bool = False


def entries(text: str) -> list[Entry]:
    """Read "a b:2 c*3 d!" as entries: `:` gives the kind, `*` the cost, `!` says that it has gone."""
    made = []
    for word in text.split():
        gone = word.endswith("!")
        rest, _, cost = word.rstrip("!").partition("*")
        name, _, kind = rest.partition(":")
        made.append(Entry(name, int(kind or 1), int(cost or 1), gone))
    return made


@pytest.mark.parametrize(
    ("waiting", "budget", "batch", "stay"),
    [
        ("", 4, "", ""),
        ("a", 4, "a", ""),
        ("a b c d e", 4, "a b c d", "e"),
        ("a:1 b:2 c:1", 4, "a c", "b"),
        ("a:2 b:1 c:1", 4, "a", "b c"),
        ("a*3 b*2 c*1", 4, "a", "b c"),
        ("a*3 b*1 c*1", 4, "a b", "c"),
        ("a*4 b", 4, "a", "b"),
        ("a! b c!", 4, "b", ""),
        ("a:2! b:1 c:2", 4, "b", "c"),
        ("a*3 b*2! c*1", 4, "a c", ""),
        ("a:1 b:2*4 c:1*4 d:1", 4, "a", "b c d"),
    ],
)
def test_the_head_decides_the_kind_and_order_is_kept_within_the_budget(
    waiting: str, budget: int, batch: str, stay: str
) -> None:
    """A batch is the head and those of its kind behind it, first come first served, until one does not fit."""
    taken, left = next_batch(entries(waiting), budget)
    assert [entry.name for entry in taken] == batch.split()
    assert [entry.name for entry in left] == stay.split()


@pytest.mark.parametrize(
    ("waiting", "budget", "batch_seconds", "seconds"),
    [(0, 8, 2.0, 2.0), (7, 8, 2.0, 2.0), (8, 8, 2.0, 4.0), (64, 8, 0.5, 4.5)],
)
def test_the_wait_is_estimated_in_batches(waiting: int, budget: int, batch_seconds: float, seconds: float) -> None:
    """Who is refused is told how long the batches take that are before it."""
    assert wait_estimate(waiting, budget, batch_seconds) == seconds


@dataclass
class Job:
    name: str
    steps: int = 1
    kind: int = 1
    cost: int = 1


class FakeRun:
    """Makes "name:step" outputs; a test holds it between steps, and reads what ran together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.seen_gone: list[list[str]] = []
        self.step_allowed = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.closed = threading.Event()
        self.started = threading.Event()

    def __call__(
        self, jobs: Sequence[Job], gone: Callable[[int], bool]
    ) -> Generator[Sequence[tuple[int, str]], None, None]:
        self.batches.append([job.name for job in jobs])
        self.started.set()
        try:
            for step in range(max(job.steps for job in jobs)):
                assert self.step_allowed.acquire(timeout=10)
                self.seen_gone.append([job.name for at, job in enumerate(jobs) if gone(at)])
                if self.failure:
                    raise self.failure
                yield [(at, f"{job.name}:{step}") for at, job in enumerate(jobs) if step < job.steps and not gone(at)]
        finally:
            self.closed.set()

    def allow(self, steps: int = 1) -> None:
        self.step_allowed.release(steps)


class FakeClock:
    """Seconds that pass by one at every look."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


@pytest.fixture
def run() -> FakeRun:
    """A run that a test holds between steps."""
    return FakeRun()


@pytest.fixture
async def batcher(run: FakeRun) -> AsyncIterator[Batcher[Job, str]]:
    """A batcher of four rows, where three may wait."""
    made = Batcher[Job, str](
        run, kind=lambda job: job.kind, cost=lambda job: job.cost, budget=4, queue_limit=3, clock=FakeClock()
    )
    yield made
    run.allow(1000)
    await made.close()


async def started(run: FakeRun) -> None:
    """Wait until a batch runs, so that what is submitted next has to queue."""
    assert await asyncio.to_thread(run.started.wait, 10)


async def test_outputs_reach_their_own_caller_step_by_step(batcher: Batcher[Job, str], run: FakeRun) -> None:
    """Every entry of a batch gets its own outputs as they are made, and ends when the batch does."""
    first = batcher.submit(Job("blocker"))
    await started(run)
    short, long = batcher.submit(Job("short", steps=1)), batcher.submit(Job("long", steps=2))
    run.allow(2)
    assert [output async for output in first] == ["blocker:0"]
    assert await anext(short) == "short:0"
    assert await anext(long) == "long:0"
    run.allow()
    assert [output async for output in long] == ["long:1"]
    assert [output async for output in short] == []
    assert run.batches == [["blocker"], ["short", "long"]]


async def test_kinds_run_one_after_the_other(batcher: Batcher[Job, str], run: FakeRun) -> None:
    """Entries of another kind wait for a batch of their own."""
    waiting = [batcher.submit(Job("blocker", kind=9))]
    await started(run)
    waiting += [batcher.submit(Job(name, kind=kind)) for name, kind in (("a", 1), ("b", 2), ("c", 1))]
    run.allow(10)
    for submission in waiting:
        assert len([output async for output in submission]) == 1
    assert run.batches == [["blocker"], ["a", "c"], ["b"]]


async def test_a_full_queue_refuses_and_says_for_how_long(batcher: Batcher[Job, str], run: FakeRun) -> None:
    """The fourth that waits is refused at once, with a number of seconds from measured batches."""
    batcher.submit(Job("running"))
    await started(run)
    for name in "abc":
        batcher.submit(Job(name))
    with pytest.raises(QueueFull) as refused:
        batcher.submit(Job("d"))
    assert refused.value.retry_after == 1.0
    with pytest.raises(QueueFull):
        batcher.ensure_room()


async def test_who_leaves_the_queue_makes_room_and_is_not_run(batcher: Batcher[Job, str], run: FakeRun) -> None:
    """A closed entry neither runs nor counts."""
    batcher.submit(Job("running"))
    await started(run)
    waiting = [batcher.submit(Job(name)) for name in "abc"]
    waiting[1].close()
    last = batcher.submit(Job("d"))
    run.allow(10)
    assert [output async for output in last] == ["d:0"]
    assert run.batches == [["running"], ["a", "c", "d"]]


async def test_a_running_batch_learns_who_has_gone_and_ends_when_all_have(
    batcher: Batcher[Job, str], run: FakeRun
) -> None:
    """Between steps the run is told; when nobody is left it is closed in the middle."""
    blocker = batcher.submit(Job("blocker"))
    await started(run)
    leaver, stayer = batcher.submit(Job("leaver", steps=100)), batcher.submit(Job("stayer", steps=100))
    run.allow(2)
    assert [output async for output in blocker] == ["blocker:0"]
    with closing(leaver):
        assert await anext(leaver) == "leaver:0"
    assert await anext(stayer) == "stayer:0"
    run.allow()
    assert await anext(stayer) == "stayer:1"
    assert run.seen_gone[-1] == ["leaver"]
    run.closed.clear()
    stayer.close()
    run.allow()
    assert await asyncio.to_thread(run.closed.wait, 10)
    # The worker looks after each step: it may see that all have gone before the step allowed last, or after it.
    assert len(run.seen_gone) in (3, 4)


async def test_a_failure_reaches_everyone_in_the_batch_and_the_worker_goes_on(
    batcher: Batcher[Job, str], run: FakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    """What a run raises ends its own batch only, and is logged once."""
    blocker = batcher.submit(Job("blocker"))
    await started(run)
    unlucky = [batcher.submit(Job("a")), batcher.submit(Job("b"))]
    run.allow()
    assert [output async for output in blocker] == ["blocker:0"]
    run.failure = RuntimeError("the model broke")
    run.allow()
    for submission in unlucky:
        with pytest.raises(RunFailed) as failed:
            await anext(submission)
        assert failed.value.__cause__ is run.failure
    assert [record.message for record in caplog.records] == ["a batch of 2 failed"]
    run.failure = None
    run.allow()
    assert [output async for output in batcher.submit(Job("next"))] == ["next:0"]


async def test_a_failed_run_leaves_nothing_in_memory() -> None:
    """What it had made is freed when its callers are told, not when Python next looks for cycles; then `failed` is
    called, once for the batch."""
    made: list[weakref.ref[Job]] = []
    calls: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def run(jobs: Sequence[Job], gone: Callable[[int], bool]) -> Generator[Sequence[tuple[int, str]], None, None]:
        large = Job("large")
        made.append(weakref.ref(large))
        yield [(0, "first")]
        raise RuntimeError("out of memory")

    def failed() -> None:
        loop.call_soon_threadsafe(calls.put_nowait, "failed")

    batcher = Batcher[Job, str](run, kind=lambda _: 1, cost=lambda _: 1, budget=1, queue_limit=4, failed=failed)
    gc.disable()
    try:
        submission = batcher.submit(Job("job"))
        assert await anext(submission) == "first"
        with pytest.raises(RunFailed):
            await anext(submission)
        assert await calls.get() == "failed"
        assert made[0]() is None
    finally:
        gc.enable()
    await batcher.close()
    assert calls.empty()


async def test_a_job_over_the_budget_is_refused_up_front(batcher: Batcher[Job, str]) -> None:
    """What could never run is not queued."""
    with pytest.raises(ValueError, match="exceeds the budget of 4"):
        batcher.submit(Job("large", cost=5))


async def test_closing_ends_what_runs_and_what_waits(run: FakeRun) -> None:
    """After close nobody waits for ever: running and waiting entries end with Closed, new ones are refused."""
    batcher = Batcher[Job, str](run, kind=lambda _: 1, cost=lambda _: 1, budget=1, queue_limit=4)
    running, waiting = batcher.submit(Job("running", steps=100)), batcher.submit(Job("waiting"))
    run.allow()
    assert await anext(running) == "running:0"
    closer = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    run.allow()
    await closer
    for submission in (running, waiting):
        with pytest.raises(Closed):
            assert len([output async for output in submission]) <= 1
    with pytest.raises(Closed):
        batcher.submit(Job("late"))


async def test_retry_after_follows_the_measured_batches(run: FakeRun) -> None:
    """Slow batches make the estimate grow."""
    times = iter([0.0, 11.0])
    batcher = Batcher[Job, str](
        run, kind=lambda _: 1, cost=lambda _: 1, budget=1, queue_limit=1, clock=lambda: next(times, 11.0)
    )
    run.allow()
    assert [output async for output in batcher.submit(Job("slow"))] == ["slow:0"]
    run.started.clear()
    batcher.submit(Job("running"))
    await started(run)
    batcher.submit(Job("waiting"))
    with pytest.raises(QueueFull) as refused:
        batcher.ensure_room()
    assert refused.value.retry_after == pytest.approx(8.0)
    run.allow(10)
    await batcher.close()
