"""Decoding in processes of their own: what a bad picture, a bad worker or too little memory costs, and whom."""

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gateway.errors import Overloaded
from gateway.images import decoder, encode, header, plan, pool, shared, staff
from gateway.images.budget import Budget
from gateway.images.decoder import Decoder
from gateway.images.plan import Sizing
from gateway.images.pool import NotDecoded, Pool
from gateway.images.quarantine import DURATION, KEPT, Quarantine
from gateway.images.shared import Memory
from gateway.images.task import Task

from . import made

MEMORY = 2**30
SMALL = made.noise("png", (64, 48))
LARGE = made.noise("png", (3000, 2000), compress_level=1)


def wanted(data: bytes, *, seconds: float = 20.0, memory: int = 2**28, side: int | None = None) -> Task:
    """The task for a picture that keeps its size, or becomes a square."""
    read = header.read(data)
    sizing, resize = (Sizing("square", side), "fast") if side else (Sizing(None, 1024), "off")
    planned = plan.plan(read, sizing, resize)  # type: ignore[arg-type]
    return Task(read.format, planned, "ppm", len(data), encode.length("ppm", planned.size), memory, seconds)


@pytest.fixture
async def two() -> AsyncIterator[Pool]:
    """A pool with two workers at work at most."""
    async with Pool(made.DEFAULT, most_memory=MEMORY, workers=2) as running:
        yield running


async def decoded(running: Pool, data: bytes = SMALL, digest: str = "") -> Image.Image:
    """The picture as the pool gives it."""
    image = Image.open(BytesIO(bytes(await running.decode(wanted(data), data, digest, Memory))))
    image.load()
    return image


def pids(running: Pool) -> set[int]:
    """The process ids of its workers."""
    return {worker.pid for worker in running._staff._decoders}


class Sent(list[int]):
    """The process ids of the workers that were given a task, in order; `holds` has the next one hold still with it."""

    holds = False


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What is sent from now on."""
    noted = Sent()
    send = Decoder.send

    def noting(worker: Decoder, *arguments: Any) -> None:
        if noted.holds:
            os.kill(worker.pid, signal.SIGSTOP)
        send(worker, *arguments)
        noted.append(worker.pid)

    monkeypatch.setattr(Decoder, "send", noting)
    return noted


async def killed(sent: Sent, number: signal.Signals) -> int:
    """Sends a signal to the worker that is the next to be given a task, before it has done it; its process id."""
    before, sent.holds = len(sent), True
    await until(lambda: len(sent) > before)
    sent.holds = False
    os.kill(sent[-1], number)
    if number is signal.SIGSEGV:  # which does nothing yet to one that holds still
        os.kill(sent[-1], signal.SIGCONT)
    return sent[-1]


async def settled(running: Pool) -> None:
    """Returns when a worker is ready and no other is being started."""
    await until(lambda: running._staff._starting is None and not running._staff._ready.empty())


def descriptors(pid: int | str = "self") -> int:
    """How many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def until(condition: object) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_a_picture_is_decoded(two: Pool) -> None:
    """What comes back is the picture, pixel for pixel."""
    image = await decoded(two)
    assert image.tobytes() == Image.open(BytesIO(SMALL)).tobytes()


async def test_workers_come_as_they_are_needed(two: Pool) -> None:
    """One is there from the start, and never more than are at work, and one that is ready."""
    await decoded(two)
    assert len(pids(two)) <= 2
    await asyncio.gather(*(decoded(two, LARGE) for _ in range(6)))
    assert len(pids(two)) <= 3


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
async def test_a_worker_that_dies_or_hangs_costs_one_picture(two: Pool, sent: Sent, number: signal.Signals) -> None:
    """The others do not notice, and a worker is there for the next."""
    await decoded(two)
    victim = asyncio.create_task(two.decode(wanted(LARGE, seconds=2), LARGE, "victim", Memory))
    await killed(sent, number)
    await decoded(two)
    with pytest.raises(NotDecoded) as caught:
        await victim
    assert caught.value.reason == ("time" if number is signal.SIGSTOP else "damaged")


async def test_a_worker_that_dies_is_in_the_log(two: Pool, sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    """With what it died of, and the beginning of the picture's digest: enough to find both."""
    work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, "0123456789abcdef", Memory))
    await killed(sent, signal.SIGSEGV)
    with pytest.raises(NotDecoded):
        await work
    assert caplog.messages == ["a worker is lost over picture 0123456789ab (damaged): signal 11"]


async def test_a_worker_that_somebody_else_kills_costs_nothing(two: Pool, sent: Sent) -> None:
    """As a system does that is out of memory: another worker decodes the picture, which has no part in that."""
    for _ in range(3):
        work = asyncio.create_task(two.decode(wanted(SMALL), SMALL, "harmless", Memory))
        await killed(sent, signal.SIGKILL)
        assert await work
    assert len(sent) == 6


async def test_a_picture_over_which_two_workers_are_killed_is_not_tried_for_ever(two: Pool, sent: Sent) -> None:
    """The second time it counts as the picture's doing."""
    work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, "", Memory))
    await killed(sent, signal.SIGKILL)
    await killed(sent, signal.SIGKILL)
    with pytest.raises(NotDecoded):
        await work
    assert len(sent) == 2


async def test_a_worker_is_there_at_once_after_a_death(two: Pool, sent: Sent) -> None:
    """One is kept ready for that: the next picture does not wait for a start."""
    took = []
    for round_ in range(5):
        await decoded(two)
        await settled(two)
        work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, str(round_), Memory))
        await killed(sent, signal.SIGSEGV)
        with pytest.raises(NotDecoded):
            await work
        began = time.monotonic()
        await decoded(two)
        took.append(time.monotonic() - began)
    assert sorted(took)[2] < 0.2


async def test_a_picture_that_kills_twice_is_quarantined(two: Pool, sent: Sent) -> None:
    """The third time it is refused at once, by its digest, and no worker sees it; others are not."""
    for _ in range(2):
        work = asyncio.create_task(two.decode(wanted(LARGE), LARGE, "deadly", Memory))
        await killed(sent, signal.SIGSEGV)
        with pytest.raises(NotDecoded):
            await work
    with pytest.raises(NotDecoded) as caught:
        await two.decode(wanted(LARGE), LARGE, "deadly", Memory)
    assert caught.value.reason == "deadly"
    assert len(sent) == 2
    await decoded(two, LARGE, "harmless")


async def test_of_many_copies_at_once_few_kill(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were in line before the picture was known are refused when it is their turn."""
    send, killed_by_it = Decoder.send, 0

    def deadly(worker: Decoder, *arguments: Any) -> None:
        nonlocal killed_by_it
        killed_by_it += 1
        os.kill(worker.pid, signal.SIGSEGV)
        send(worker, *arguments)

    await settled(two)
    monkeypatch.setattr(Decoder, "send", deadly)
    work = [two.decode(wanted(LARGE), LARGE, "deadly", Memory) for _ in range(20)]
    results = await asyncio.gather(*work, return_exceptions=True)
    assert {type(result) for result in results} == {NotDecoded}
    assert killed_by_it <= 4  # two strikes, and as many as are at work together


def test_a_quarantine_ends_and_is_bounded() -> None:
    """After some minutes the picture is tried again; of many that kill, the oldest are forgotten."""
    quarantine = Quarantine()
    quarantine.strike("a", 0)
    assert not quarantine.holds("a", 0)
    quarantine.strike("a", 1)
    assert quarantine.holds("a", DURATION)
    assert not quarantine.holds("a", DURATION + 1)
    quarantine.strike("a", 2 * DURATION)
    assert not quarantine.holds("a", 2 * DURATION)
    for number in range(2 * KEPT):
        quarantine.strike(str(number // 2 + 7), 0)
    assert not quarantine.holds("a", 0)
    assert len(quarantine._strikes) == KEPT


async def test_an_idle_worker_that_died_costs_nothing(two: Pool) -> None:
    """A task that it cannot take goes to another."""
    await decoded(two)
    await settled(two)
    for pid in pids(two):
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: not Path(f"/proc/{pid}/stat").exists() or _is_zombie(pid))
    assert (await decoded(two)).size == (64, 48)


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def test_workers_are_replaced_after_some_hundred_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoder leaks does not grow for ever."""
    monkeypatch.setattr(staff, "RECYCLED_AFTER", 3)
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        seen: set[int] = set()
        for _ in range(9):
            await decoded(running)
            seen |= pids(running)
        assert len(seen) >= 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)


# --- workers that lie ------------------------------------------------------------------------------------------------

LIES = {
    "garbage": "channel.sendall(b'\\xff' * 9)",
    "more than there is room": "channel.sendall(task.answer(task.Outcome.DONE, 10**9))",
    "nothing": "channel.sendall(task.answer(task.Outcome.DONE, 0))",
    "half an answer": "channel.sendall(b'\\0\\0')",
    "a closed socket": "channel.close(); import time; time.sleep(60)",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_that_lies_is_killed(lie: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An answer that cannot be is no answer: the picture is refused, and nothing of what it says is used."""
    (tmp_path / "liar.py").write_text(
        "import socket\nfrom gateway.images import task\nchannel = socket.socket(fileno=0)\n"
        f"channel.sendall(b'L')\nsocket.recv_fds(channel, 4096, 2)\n{LIES[lie]}\n"
    )
    monkeypatch.setattr(decoder, "MODULE", "liar")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        with pytest.raises(NotDecoded) as caught:
            await running.decode(wanted(SMALL), SMALL, "", Memory)
        assert caught.value.reason == "damaged"


async def test_a_worker_that_does_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits meanwhile is told to come back, and not left hanging."""
    monkeypatch.setattr(decoder, "MODULE", "there_is_none")
    monkeypatch.setattr(pool, "LONGEST_WAIT", 0.5)
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        with pytest.raises(Overloaded):
            await decoded(running)


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("can't start new thread")])
async def test_what_keeps_a_worker_from_starting_may_pass(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is started as soon as that can be done again."""
    start, faults = Decoder.start, [fault]

    async def failing(arguments: Any) -> Decoder:
        if faults:
            raise faults.pop()
        return await start(arguments)

    monkeypatch.setattr(Decoder, "start", failing)
    monkeypatch.setattr(staff, "FIRST_PAUSE", 0.01)
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        assert (await decoded(running)).size == (64, 48)


@pytest.mark.parametrize("place", ["gateway.images.pool.aside", "gateway.images.decoder.Decoder.send"])
async def test_no_fault_of_ours_loses_a_worker(place: str, two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong before a worker has its task, it does the next."""

    def failing(*_: object) -> None:
        raise MemoryError

    await settled(two)
    before = pids(two)
    monkeypatch.setattr(place, failing)
    for _ in range(5):
        with pytest.raises(MemoryError):
            await decoded(two)
    monkeypatch.undo()
    async with asyncio.timeout(30):
        await decoded(two)
    assert pids(two) >= before


async def test_a_kernel_without_filters_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs the gateway reads that its decoders are less locked up than they could be."""
    (tmp_path / "open.py").write_text("import socket\nsocket.socket(fileno=0).sendall(b'U')\n")
    monkeypatch.setattr(decoder, "MODULE", "open")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with Pool(["png"], most_memory=MEMORY, workers=1) as running:
        for _ in range(2):
            assert not await running.is_filtered()
            await until(lambda: not all(worker.alive for worker in running._staff._decoders))
    assert [message[:12] for message in caplog.messages] == ["seccomp cann"]


# --- memory ----------------------------------------------------------------------------------------------------------


async def test_memory_is_given_out_in_order() -> None:
    """What does not fit waits, in line; who leaves the line holds nobody up, and everything comes back."""
    budget = Budget(10)
    order: list[str] = []

    async def take(name: str, size: int, held: asyncio.Event) -> None:
        async with budget.reserved(size):
            order.append(name)
            await held.wait()

    events = {name: asyncio.Event() for name in "abcd"}
    a, b, c, d = (
        asyncio.create_task(take(name, size, events[name])) for name, size in (("a", 6), ("b", 6), ("c", 1), ("d", 99))
    )
    for _ in range(3):
        await asyncio.sleep(0)
    assert (order, budget.free) == (["a"], 4)
    b.cancel()
    await asyncio.gather(b, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (order, budget.free) == (["a", "c"], 3)
    for event in events.values():
        event.set()
    await asyncio.gather(a, c, d)
    assert (order, budget.free) == (["a", "c", "d"], 10)


async def test_who_is_served_and_leaves_in_the_same_moment_gives_back() -> None:
    """Otherwise that memory would be lost for ever."""
    budget = Budget(10)
    first = budget.reserved(10)
    await first.__aenter__()

    async def wait() -> None:
        async with budget.reserved(10):
            pass

    second = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert budget.free == 10


async def test_many_who_leave_in_the_same_moment_hold_nobody_up() -> None:
    """Each finds the others gone already, and whoever is left is served."""
    budget = Budget(10)
    first = budget.reserved(10)
    await first.__aenter__()

    async def wait() -> str:
        async with budget.reserved(10):
            return "served"

    waiting = [asyncio.create_task(wait()) for _ in range(4)]
    await asyncio.sleep(0)
    for each in waiting[:3]:
        each.cancel()
    await first.__aexit__(None, None, None)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3 + [str]
    assert budget.free == 10


async def test_what_waits_too_long_for_memory_is_told_to_come_back(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with a time, when the memory is not there in time; and it can be had afterwards."""
    monkeypatch.setattr(pool, "LONGEST_WAIT", 0.1)
    async with two.budget.reserved(MEMORY):
        with pytest.raises(Overloaded) as caught:
            await decoded(two)
    assert caught.value.retry_after
    monkeypatch.undo()
    await decoded(two)


async def test_a_picture_gets_no_more_memory_than_it_was_promised(two: Pool) -> None:
    """A decoder that wants more, as for a file that lies about its size, fails; the worker lives on."""
    await decoded(two)
    before = pids(two)
    bomb = made.bomb(13_000)
    with pytest.raises(NotDecoded) as caught:
        await two.decode(wanted(bomb, memory=1, side=64), bomb, "", Memory)
    assert caught.value.reason == "memory"
    assert pids(two) >= before


async def test_no_memory_for_sharing_is_told(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has none left, the client is told to come back, and the worker goes on."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Overloaded):
        await decoded(two)
    monkeypatch.undo()
    await decoded(two)


async def good_bad_and_given_up(running: Pool) -> None:
    """Twenty-five pictures at once: good ones, bad ones and such that their client does not wait for."""
    pictures = [SMALL] * 20 + [SMALL[:-200]] * 5
    work = [asyncio.create_task(running.decode(wanted(SMALL), data, "", Memory)) for data in pictures]
    for each in work[::9]:
        each.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def test_a_thousand_pictures_leave_no_descriptor_behind(two: Pool) -> None:
    """However they end."""
    await decoded(two)
    await settled(two)
    gc.collect()
    before = descriptors()
    for _ in range(40):
        await good_bad_and_given_up(two)
    await until(lambda: not two._tasks)
    await settled(two)
    # One more worker may have come: its socket, and how its end is seen.
    await until(lambda: gc.collect() >= 0 and descriptors() <= before + 3)


# --- clients that leave, and our own end ------------------------------------------------------------------------------


async def test_a_client_that_leaves_frees_the_worker(two: Pool, sent: Sent) -> None:
    """A long task is not finished for nobody: its worker is killed, and the memory comes back."""
    work = asyncio.create_task(two.decode(wanted(LARGE, seconds=99), LARGE, "left", Memory))
    victim = await killed(sent, signal.SIGSTOP)  # so that it certainly takes long
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until(lambda: victim not in pids(two))
    await until(lambda: two.budget.free == MEMORY)
    await decoded(two, LARGE, "left")


async def test_a_short_task_is_finished_for_nobody(two: Pool) -> None:
    """That costs less than another worker."""
    await decoded(two)
    before = pids(two)
    work = asyncio.create_task(two.decode(wanted(SMALL), SMALL, "", Memory))
    for _ in range(3):
        await asyncio.sleep(0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await until(lambda: not two._tasks)
    assert pids(two) >= before


async def test_the_loop_is_not_held_up(two: Pool) -> None:
    """While pictures of 18 MB go to and fro, nothing else waits."""
    data = made.png((3000, 2000), color=2, data=zlib.compress(bytes(2000 * 9001), 0))
    await decoded(two)
    worst, stop = 0.0, False
    ticks: list[float] = []

    async def tick() -> None:
        while not stop:
            began = time.thread_time()
            await asyncio.sleep(0)
            ticks.append(time.thread_time() - began)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(two.decode(wanted(data), data, "", Memory) for _ in range(4)))
    stop = True
    await ticking
    worst = sorted(ticks)[-5]
    assert worst < 0.01


GATEWAY = """
import asyncio, sys
from gateway.images.pool import Pool
async def main():
    async with Pool(["png"], most_memory=2**28, workers=1) as running:
        await running.is_filtered()
        print(*[worker.pid for worker in running._staff._decoders], flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_workers_end_with_the_gateway(stopped: bool) -> None:
    """However it ends, even when they hang at that moment."""
    with subprocess.Popen([sys.executable, "-c", GATEWAY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        if stopped:
            os.kill(workers[0], signal.SIGSTOP)
        process.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- the lock ---------------------------------------------------------------------------------------------------------

LOCKED = """
import ctypes, mmap, os, resource, socket, sys
from gateway.images import sandbox, worker
worker.warm_up(["png"])
held = open("/etc/hostname", "rb")
cell = sandbox.lock(2**28)
assert cell.filtered
def refused(call):
    try:
        call()
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) in (1, 22)
    return False
libc = ctypes.CDLL(None, use_errno=True)
attempts = {
    "a socket": lambda: socket.socket(),
    "a pair of sockets": lambda: socket.socketpair(),
    "a file to read": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "a file to write": lambda: os.open("/tmp/x", os.O_WRONLY | os.O_CREAT),
    "a listing": lambda: os.listdir("/"),
    "a look": lambda: os.stat("/etc/passwd"),
    "a program": lambda: os.execv("/bin/true", ["true"]),
    "a child": lambda: os.fork(),
    "a signal": lambda: os.kill(os.getppid(), 0),
    "memory that runs": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "another's limits": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
    "another's memory": lambda: held.fileno() and os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    "a pipe": lambda: os.pipe(),
    "another folder": lambda: os.chdir("/"),
    "another user": lambda: os.setuid(os.getuid()),
}
os.write(1, " ".join(name for name, call in attempts.items() if not refused(call)).encode() + b"|")
cell.allow(0, 0.1)
try:
    bytearray(2**30)
except MemoryError:
    os.write(1, b"no memory")
while True:
    pass
"""


def test_a_locked_process_can_compute_and_nothing_else() -> None:
    """No socket, file, program, child, signal or executable memory; bounded memory; its time ends it."""
    done = subprocess.run([sys.executable, "-c", LOCKED], check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("|no memory", "")
    assert done.returncode == -signal.SIGXCPU


async def test_workers_are_locked_up(two: Pool) -> None:
    """The kernel says so itself: filtered, without new privileges, bounded, with three descriptors and no variable."""
    assert await two.is_filtered()
    pid = next(iter(pids(two)))
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1\nSeccomp:\t2\n" in status
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max core file size        0                    0" in limits
    assert descriptors(pid) <= 3
    environ = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    assert [variable.partition(b"=")[0] for variable in environ] == [b"PYTHONPATH"]


def test_shared_memory_cannot_be_changed_under_our_eyes() -> None:
    """What holds a file cannot be written to any more; what is to be written cannot be made smaller or larger."""
    with shared.Memory() as held, shared.Memory() as room:
        held.hold(b"abc")
        room.reserve(4096)
        for attempt in (
            lambda: os.pwrite(held.descriptor, b"x", 0),
            lambda: os.truncate(room.descriptor, 1),
            lambda: os.truncate(room.descriptor, 8192),
        ):
            with pytest.raises(PermissionError):
                attempt()
        os.pwrite(room.descriptor, b"xyz", 0)
        view = room.taken(3)
    assert bytes(view) == b"xyz"


def test_systems_without_such_memory_get_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, only slower."""
    monkeypatch.setattr(shared, "_CAN_SEAL", False)
    with shared.Memory() as room:
        room.reserve(4096)
        os.pwrite(room.descriptor, b"xyz", 0)
        assert room.taken(3) == b"xyz"
    with shared.Memory() as held:
        held.hold(b"abc")
        assert os.pread(held.descriptor, 9, 0) == b"abc"
