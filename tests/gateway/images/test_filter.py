"""The filter of system calls, run by a machine of our own: it is right for processors that the tests do not run on.

The numbers are those of the kernel's own headers, asm-generic/unistd.h (which aarch64 uses) and x86's unistd_64.h.
"""

import errno
import re
import struct
from pathlib import Path

import pytest

from gateway.images import sandbox

# By name: on x86_64, on aarch64.
NUMBERS = {
    "brk": (12, 214), "clock_gettime": (228, 113), "clone": (56, 220), "clone3": (435, 435), "close": (3, 57),
    "exit": (60, 93), "exit_group": (231, 94), "futex": (202, 98), "getcwd": (79, 17), "getpid": (39, 172),
    "getrandom": (318, 278), "getrusage": (98, 165), "gettid": (186, 178), "madvise": (28, 233), "mmap": (9, 222),
    "mprotect": (10, 226), "mremap": (25, 216), "munmap": (11, 215), "pread64": (17, 67), "prlimit64": (302, 261),
    "pwrite64": (18, 68), "read": (0, 63), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "restart_syscall": (219, 128), "rseq": (334, 293), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sched_yield": (24, 124), "sendmsg": (46, 211), "sendto": (44, 206),
    "set_robust_list": (273, 99), "write": (1, 64),
}  # fmt: skip
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h: 64 bits, little endian, ELF's number
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
OF_THREADS = {"clone", "clone3", "set_robust_list"}
CHECKED = {"mmap", "mprotect", "prlimit64"}  # allowed with some arguments
ALLOWED, KILLED, REFUSED, UNKNOWN = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
EXECUTABLE, THREAD, FORK = 4, 0x3D0F00, 17


def number(name: str, machine: str) -> int:
    """The number of a system call."""
    return NUMBERS[name][("x86_64", "aarch64").index(machine)]


def verdict(machine: str, call: int, *arguments: int, threads: bool = False, architecture: int | None = None) -> int:
    """What the filter for that machine says to a system call, by the rules of the kernel's machine for filters."""
    seen = struct.pack("<IIQ6Q", call, architecture or ARCHITECTURES[machine], 0, *(*arguments, *[0] * 6)[:6])
    program = [struct.unpack("HBBI", step) for step in sandbox._program(machine, threads)]
    at = loaded = 0
    for _ in program:  # it only ever goes forward
        code, if_true, if_false, value = program[at]
        at += 1
        match code:
            case 0x20:  # load a word
                (loaded,) = struct.unpack_from("<I", seen, value)
            case 0x15:  # jump if equal
                at += if_true if loaded == value else if_false
            case 0x45:  # jump if any bit is set
                at += if_true if loaded & value else if_false
            case 0x06:  # return
                return int(value)
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")
    raise AssertionError("it does not end")


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("threads", [False, True])
def test_what_is_not_needed_is_refused(machine: str, threads: bool) -> None:
    """Of a thousand system calls just those in the table pass, by the kernel's numbers."""
    needed = set(NUMBERS) - OF_THREADS - CHECKED | ({"set_robust_list"} if threads else set())
    passing = {
        call for call in range(1000) if verdict(machine, call, EXECUTABLE, 0, EXECUTABLE, threads=threads) == ALLOWED
    }
    assert passing == {number(name, machine) for name in needed}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_memory_is_not_made_executable_and_limits_are_ones_own(machine: str) -> None:
    """These calls pass with harmless arguments alone."""
    for name in ("mmap", "mprotect"):
        call = number(name, machine)
        assert verdict(machine, call, 0, 4096, 3) == ALLOWED
        assert verdict(machine, call, 0, 4096, 3 | EXECUTABLE) == REFUSED
    call = number("prlimit64", machine)
    assert (verdict(machine, call, 0), verdict(machine, call, 1)) == (ALLOWED, REFUSED)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_threads_and_no_processes_are_started(machine: str) -> None:
    """Where a decoder needs them; the call whose flags the filter cannot see is said not to exist."""
    clone, clone3 = number("clone", machine), number("clone3", machine)
    assert verdict(machine, clone, THREAD) == verdict(machine, clone3, THREAD) == REFUSED
    assert verdict(machine, clone, THREAD, threads=True) == ALLOWED
    assert verdict(machine, clone3, THREAD, threads=True) == UNKNOWN
    for flags in (FORK, 0, THREAD & ~0x10000, THREAD | 0x10000000):  # no thread; a thread with another view of users
        assert verdict(machine, clone, flags, threads=True) == REFUSED


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_another_architecture_is_the_end(machine: str) -> None:
    """Its numbers mean other calls: 32-bit programs, and those of the other machine."""
    other = next(value for name, value in ARCHITECTURES.items() if name != machine)
    for architecture in (other, 0x40000003, 0x40000028):
        assert verdict(machine, number("read", machine), architecture=architecture) == KILLED
    assert verdict(machine, number("read", machine) | 0x40000000) == REFUSED  # x86's third kind


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_numbers_are_those_of_the_headers_here(machine: str) -> None:
    """Wherever the kernel's headers are installed, they say the same."""
    assert {name: number(name, machine) for name in sandbox._CALLS[machine]} == sandbox._CALLS[machine]
    for file in filter(Path.exists, map(Path, HEADERS[machine])):
        defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", file.read_text()))
        assert {name: int(defined[name]) for name in NUMBERS} == {name: number(name, machine) for name in NUMBERS}
