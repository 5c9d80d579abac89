"""Where lines go: standard error, or whatever stands in for it. Nobody ever waits for it."""

import os
import re
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

MOST_WAITING = 2**20  # bytes
ATOMIC = 4096  # bytes that a pipe takes whole, and takes at all when it says that it can be written to
LAST = 1.0  # seconds: how long what waits may take at the end
_STARTS = re.compile(rb"(?<=\n)(?! )")  # where a line of the log begins: whatever else is below one is set in


class Sink:
    """Writes lines to a file descriptor that may be a pipe nobody reads: what it does not take waits, up to a bound.

    Lines over the bound are dropped and counted, whole ones only; when all that waited is written, a line that `notice`
    makes says how many. It is asked whether it takes something because to make it non-blocking would change it for all
    processes that have it.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._may_block = not stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._most = ATOMIC if self._may_block else MOST_WAITING
        self._waiting = bytearray()
        self._lock = threading.Lock()
        self._untold = 0
        self._said = deque[bytes]()
        self.dropped = 0

    def put(self, lines: bytes) -> None:
        """Writes lines, which have their ends, now or with the next ones; at worst not at all."""
        self._said.append(lines)
        self._pass_on()

    def flush(self) -> None:
        """Writes what waits, and gives up on it after `LAST` seconds."""
        self._pass_on()
        ends = time.monotonic() + LAST
        with self._lock:
            while self._waiting and (left := ends - time.monotonic()) > 0:
                self._write(left)
        self._pass_on()  # what was said meanwhile

    def _pass_on(self) -> None:
        """Never waits for the lock: whoever has it passes on all, and may be the caller, in whom a finaliser speaks."""
        while self._said and self._lock.acquire(blocking=False):
            try:
                self._put_all()
            finally:
                self._lock.release()

    def _put_all(self) -> None:
        if self._waiting:
            self._write(0)
        while self._said:
            lines = self._said.popleft()
            if len(self._waiting) + len(lines) <= MOST_WAITING:
                self._waiting += lines
            else:
                self._put_some(_STARTS.split(lines))
        self._write(0)

    def _put_some(self, lines: Sequence[bytes]) -> None:
        """Those that there is room for, or will be once some are written."""
        for line in filter(None, lines):
            if len(self._waiting) + len(line) > MOST_WAITING:
                self._write(0)
            if len(self._waiting) + len(line) > MOST_WAITING:
                self.dropped += 1
                self._untold += 1
            else:
                self._waiting += line

    def _write(self, patience: float) -> None:
        with suppress(OSError):  # nobody reads any more, and nobody can be told
            while self._waiting and (not self._may_block or self._poll.poll(patience * 1000)):
                # Up to the end of a line: others write to the same pipe, and would come in between.
                size = self._waiting.rfind(b"\n", 0, self._most) + 1 or self._most
                written = os.write(self._descriptor, self._waiting[:size])
                del self._waiting[:written]
            if self._untold and not self._waiting:
                self._waiting += self._notice(self._untold)
                self._untold = 0
