"""The process that decodes pictures: `python -m gateway.images.worker`, started by the pool alone.

Standard input is the socket to its parent. It imports and tries what it will need, locks itself up, says so, and then
does one task after the other until its parent closes the socket.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import BytesIO

from PIL import Image

from gateway import allocator
from gateway.images import encode, pixels, sandbox, task
from gateway.images.plan import Plan
from gateway.images.sniff import Format
from gateway.images.task import Outcome, Task

THREADED = frozenset[Format](["heic"])  # whose decoder does not work without a thread
KEPT = 64 * 2**20  # bytes of freed memory: what a picture of 12 megapixels takes

_TINY = (8, 8)


def main(formats: Sequence[Format], most_memory: int) -> None:
    """Does what its parent asks until that closes the socket."""
    allocator.keep_freed(KEPT)
    channel = socket.socket(fileno=sys.stdin.fileno())
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _time(allocator.PAUSE))
    warm_up(formats)
    cell = sandbox.lock(most_memory, threads=not THREADED.isdisjoint(formats))
    channel.sendall(task.READY_LOCKED if cell.filtered else task.READY_UNLOCKED)
    while True:
        message, descriptors = _next(channel)
        if not message:
            return
        wanted = task.decode(message)
        cell.allow(wanted.memory, wanted.seconds)
        channel.sendall(_answer(wanted, *descriptors))
        for descriptor in descriptors:
            os.close(descriptor)


def _next(channel: socket.socket) -> tuple[bytes, list[int]]:
    """What the parent asks next, with its descriptors. In a longer pause, memory is given back."""
    is_due = True
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(channel, task.LONGEST, 2)
        except BlockingIOError:
            if is_due:
                allocator.give_back()
            is_due = False
        else:
            return message, descriptors


def _time(seconds: float) -> bytes:
    """The system's struct timeval."""
    return struct.pack("ll", int(seconds), round(seconds % 1 * 1e6))


def warm_up(formats: Sequence[Format]) -> None:
    """Imports and uses every decoder once: afterwards no file can be opened any more."""
    whole = Plan(_TINY, 1, (4, 4))
    for kind in formats:
        with suppress(ImportError, KeyError, OSError):  # one that is not there; whoever asks for it will be told
            pixels.prepare([kind])
            sample = BytesIO()
            Image.new("RGB", _TINY).save(sample, kind)
            list(encode.pieces(pixels.render(sample.getvalue(), kind, whole), "png"))


def _answer(wanted: Task, encoded: int, result: int) -> bytes:
    try:
        return task.answer(Outcome.DONE, _decode(wanted, encoded, result))
    except MemoryError:
        return task.answer(Outcome.TOO_MUCH_MEMORY)
    except RuntimeError as error:  # libheif's for all that goes wrong
        is_memory = str(error).startswith("Memory allocation error")
        return task.answer(Outcome.TOO_MUCH_MEMORY if is_memory else Outcome.DAMAGED)
    # Hostile bytes make Pillow raise nearly anything (OSError, SyntaxError, ValueError, EOFError, struct.error,
    # IndexError...), and its text can tell about this process (CVE-2026-22778 began with such a message).
    except Exception:  # noqa: BLE001
        return task.answer(Outcome.DAMAGED)


def _decode(wanted: Task, encoded: int, result: int) -> int:
    """Decodes a picture from one descriptor's memory into another's; how many bytes of it were used."""
    data = os.pread(encoded, wanted.encoded, 0)
    return _write(result, encode.pieces(pixels.render(data, wanted.format, wanted.plan), wanted.form))


def _write(descriptor: int, pieces: Iterable[bytes | memoryview]) -> int:
    """Writes them one behind the other; their length. Mapping that memory would cost a page fault for every 4 kB."""
    at = 0
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(descriptor, rest, at)
            at, rest = at + written, rest[written:]
    return at


if __name__ == "__main__":
    main(sys.argv[1].split(","), int(sys.argv[2]))  # type: ignore[arg-type] # the parent's own words
