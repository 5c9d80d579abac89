"""The processes that a launcher starts: tied to its life, and ended together with what they would leave behind.

vLLM's processes share memory under names in `/dev/shm`, hundreds of megabytes, which outlive whoever is killed. Python
knows the names: a process of its own, the resource tracker, waits until all who use them are gone, removes what they
have left, and ends. So it is the last to be killed, and usually has ended by then.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

TIDYING = 1.0  # seconds that removing shared memory may take
STUCK = 1.8  # seconds: who looks at a process that hangs may hang as well; the gateway insists after two
LOOK_EVERY = 0.01  # seconds
TRACKER: Final = b"multiprocessing.resource_tracker"
# The kernel's PR_SET_PDEATHSIG, which stays through exec: SIGTERM, at which vLLM ends its other processes.
TIED: Final = """
import ctypes, os, sys
getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""

_ending = threading.Lock()


def tied(command: Sequence[str]) -> list[str]:
    """The command, as one that is told to end when this process is no more, however that ended."""
    return [sys.executable, "-I", "-S", "-c", TIED, str(os.getpid()), *command]


def end_others() -> None:
    """Ends what is left of the processes that were started here."""
    with _ending:
        _end_others()


def end_all() -> None:
    """Ends them and this process, at once."""
    _ending.acquire()  # for good: nobody else is to end this process in another way
    threading.Timer(STUCK, _kill_all).start()
    _end_others()
    _kill_all()


def _end_others() -> None:
    gives_up = time.monotonic() + TIDYING
    while others := dict(_others()):
        if time.monotonic() > gives_up:
            return
        for pid, tidies in others.items():
            if not tidies:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_EVERY)


def _others() -> Iterator[tuple[int, bool]]:
    """The living processes of the session that we lead, us aside, and whether each only tidies up after the others."""
    if os.getsid(0) != os.getpid():
        return
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            if int(session) == os.getpid() != int(folder.name) and state not in b"ZX":
                yield int(folder.name), TRACKER in (folder / "cmdline").read_bytes()


def _kill_all() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
