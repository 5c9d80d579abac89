"""How a worker is locked up, and the memory that it shares with its parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.images import shared
from gateway.images.pool import Pool

from .pools import descriptors, pids

LOCKED = """
import _thread, mmap, os, resource, socket, subprocess, sys
from gateway.images import sandbox, worker
worker.warm_up(["png"])
held = open("/etc/hostname", "rb")
threads = len(sys.argv) > 1
cell = sandbox.lock(2**28, threads=threads)
assert cell.filtered
def refused(call):
    try:
        call()
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) in (1, 22)
    except RuntimeError as error:
        return str(error) == "can't start new thread"
    return False
attempts = {
    "a socket": lambda: socket.socket(),
    "a pair of sockets": lambda: socket.socketpair(),
    "a file to read": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "a file to write": lambda: os.open("/tmp/x", os.O_WRONLY | os.O_CREAT),
    "a listing": lambda: os.listdir("/"),
    "a look": lambda: os.stat("/etc/passwd"),
    "a program": lambda: os.execv("/bin/true", ["true"]),
    "a child": lambda: os.fork(),
    "a child that shares memory": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "a thread": lambda: _thread.start_new_thread(os.getpid, ()),
    "a signal": lambda: os.kill(os.getppid(), 0),
    "memory that runs": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "another's limits": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
    "another's memory": lambda: held.fileno() and os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    "a pipe": lambda: os.pipe(),
    "another folder": lambda: os.chdir("/"),
    "another user": lambda: os.setuid(os.getuid()),
}
os.write(1, " ".join(name for name, call in attempts.items() if not refused(call)).encode() + b"|")
if threads:
    sys.exit()
cell.allow(0, 0.1)
try:
    bytearray(2**30)
except MemoryError:
    os.write(1, b"no memory")
while True:
    pass
"""


@pytest.mark.parametrize("threads", [False, True])
def test_a_locked_process_can_compute_and_nothing_else(threads: bool) -> None:
    """No socket, file, program, child, signal or executable memory; bounded memory; its time ends it.

    Threads can be started only where that is allowed, and nothing else with them.
    """
    command = [sys.executable, "-c", LOCKED, *["threads"] * threads]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("a thread|" if threads else "|no memory", "")
    assert done.returncode == (0 if threads else -signal.SIGXCPU)


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
