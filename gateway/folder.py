"""A private folder for as long as a process lives, in a place that all share.

It goes when its context ends. A process that was killed leaves its folder behind without its lock, and the next one
sweeps it away.
"""

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Folder:
    """A folder of the prefix in `root`, as a context manager; entering raises OSError where it cannot be made."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.path = root / f"{prefix}{secrets.token_hex(8)}"
        self._prefix = prefix
        self._lock = -1

    def __enter__(self) -> Self:
        sweep(self.path.parent, self._prefix)
        hidden = self.path.with_name(f".{self.path.name}")
        hidden.mkdir(mode=0o700)
        self._lock = _locked(hidden)
        hidden.rename(self.path)  # seen by others only with its lock
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(root: Path, prefix: str) -> None:
    """Removes the folders of processes that are no more."""
    for folder in root.glob(f"{prefix}*"):
        with suppress(OSError):
            lock = _locked(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int:
    """A descriptor with the folder's lock, which goes when the process does.

    Raises:
        OSError: another process has it, or it is not our folder.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
