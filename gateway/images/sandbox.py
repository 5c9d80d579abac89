"""Locks a process up that decodes what strangers have sent: no network, no files, no programs, bounded memory and time.

A flaw in a decoder that runs an attacker's code then has a process that can compute, answer its parent, and end.

- The kernel's filter of system calls (seccomp) lets through what decoding needs and refuses all else: no socket and no
  file can be opened, no process or program started, no memory made executable. What the process has open already, it
  keeps. Threads, which the filter holds as well, can be started only where a decoder does not work without.
- Limits bound its memory, its processor time, and the files that it may have open; it leaves no core behind.
- It is killed when its parent ends, and nobody may look into it.

Systems other than Linux have the limits alone. Sources: seccomp(2), prctl(2), the kernel's tables of system calls.
"""

import ctypes
import errno
import math
import os
import platform
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

_SLACK = 128 * 2**20  # bytes of address space beside what a job is given: fragments, and what a decoder keeps
_OPEN_FILES = 16
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVS = 1, 4, 22, 38
_FILTER = 2

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # instructions of the filter's machine
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _IS_NONE = _ERROR | errno.EPERM, _ERROR | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where they lie in what the filter looks at
_EXECUTABLE = 4

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39,
        "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "exit": 60, "getcwd": 79, "getrusage": 98,
        "gettid": 186, "futex": 202, "restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "getrandom": 318,
        "rseq": 334,
    },
    "aarch64": {
        "getcwd": 17, "close": 57, "read": 63, "write": 64, "pread64": 67, "pwrite64": 68, "exit": 93, "exit_group": 94,
        "futex": 98, "clock_gettime": 113, "sched_yield": 124, "restart_syscall": 128, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "getrusage": 165, "getpid": 172, "gettid": 178, "sendto": 206,
        "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216, "madvise": 233,
        "getrandom": 278, "rseq": 293,
    },
}  # fmt: skip
_MMAP = {"x86_64": 9, "aarch64": 222}
_MPROTECT = {"x86_64": 10, "aarch64": 226}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435  # everywhere; its flags cannot be looked at, so the C library has to use the older call
_SET_ROBUST_LIST = {"x86_64": 273, "aarch64": 99}
_THREAD = (0x3D0F00, 0x7D0F00)  # the flags with which glibc and musl start a thread


class Cell:
    """The limits of this process, once `lock` has closed the door.

    `filtered` says whether the kernel filters its system calls; where that cannot be had, the limits still hold.
    """

    def __init__(self, *, floor: int, filtered: bool) -> None:
        self.filtered = filtered
        self._floor = floor

    def allow(self, memory: int, seconds: float) -> None:
        """Gives the next job so many bytes beside what the process has, and so many seconds of the processor."""
        _limit(resource.RLIMIT_AS, self._floor + memory)
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))


def lock(most_memory: int, *, threads: bool = False) -> Cell:
    """Locks this process up for good. Everything that it will need has to be imported, and used once, before.

    No job will be allowed more than `most_memory` bytes; `threads` allows it to start threads.
    """
    os.chdir("/")  # Pillow asks where it is, which is nobody's business
    floor = _address_space() + _SLACK
    for what, most in (
        (resource.RLIMIT_AS, floor + most_memory),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # some systems do not know all of them
            resource.setrlimit(what, (most, most))
    return Cell(floor=floor, filtered=sys.platform == "linux" and _close_doors(threads))


def _close_doors(threads: bool) -> bool:
    _control(_SET_PDEATHSIG, signal.SIGKILL)
    _control(_SET_DUMPABLE, 0)
    return _control(_SET_NO_NEW_PRIVS, 1) and _filter(platform.machine(), threads)


def _filter(machine: str, threads: bool) -> bool:
    """Has the kernel refuse every system call that is not needed; whether it does."""
    if machine not in _CALLS or struct.calcsize("P") != 8:  # noqa: PLR2004 - bytes of a pointer
        return False
    program = b"".join(_program(machine, threads))
    code = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    return _control(_SET_SECCOMP, _FILTER, ctypes.addressof(described))


def _program(machine: str, threads: bool) -> list[bytes]:
    refuse_if_executable = [(_LOAD, _ARGUMENTS + 2 * 8), (_ANY_BIT, _EXECUTABLE, 0, 1), (_RETURN, _REFUSE)]
    refuse_if_another = [(_LOAD, _ARGUMENTS), (_EQUAL, 0, 1, 0), (_RETURN, _REFUSE)]
    steps: list[tuple[int, ...]] = [
        (_LOAD, _ARCHITECTURE),
        (_EQUAL, _ARCHITECTURES[machine], 1, 0),
        (_RETURN, _KILL),
        (_LOAD, _NUMBER),
    ]
    for number, checks in (
        (_MMAP[machine], refuse_if_executable),
        (_MPROTECT[machine], refuse_if_executable),
        (_PRLIMIT[machine], refuse_if_another),
        *(_of_threads(machine) if threads else []),
        *((number, []) for number in _CALLS[machine].values()),
    ):
        steps += [(_EQUAL, number, 0, len(checks) + 1), *checks, (_RETURN, _ALLOW)]
    steps.append((_RETURN, _REFUSE))
    return [_instruction(*step) for step in steps]


def _of_threads(machine: str) -> list[tuple[int, list[tuple[int, ...]]]]:
    """The calls that start a thread and nothing else, with what is checked of each."""
    glibc, musl = _THREAD
    refuse_unless_thread = [(_LOAD, _ARGUMENTS), (_EQUAL, glibc, 2, 0), (_EQUAL, musl, 1, 0), (_RETURN, _REFUSE)]
    return [
        (_CLONE3, [(_RETURN, _IS_NONE)]),
        (_CLONE[machine], refuse_unless_thread),
        (_SET_ROBUST_LIST[machine], []),
    ]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _control(option: int, *values: int) -> bool:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return bool(ctypes.CDLL(None).prctl(option, *arguments) == 0)


def _limit(what: int, value: int) -> None:
    """Sets a limit that may be raised again, since each job has its own."""
    _, most = resource.getrlimit(what)
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _address_space() -> int:
    """How much address space this process has, in bytes."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 2**32  # a system that does not say
