"""One at a time, across processes: a lock that ends with its holder, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Waits until nobody else holds `file`, which exists only while somebody does, and holds it.

    Raises:
        OSError: it cannot be made.
    """
    lock = _taken(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is let go: afterwards it may be another's
        os.close(lock)


def _taken(file: Path) -> int:
    """The descriptor of the file, locked. Who waited for one that its holder has removed begins anew."""
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), file.stat()):
                return lock
        os.close(lock)
