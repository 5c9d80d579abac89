"""Pictures as files in memory, for the engines of this machine: nothing travels between our own processes but a name.

The files lie in a private folder, under their digests, each for as long as a request uses it. The folder goes when the
gateway ends; one that was killed leaves its folder behind without its lock, and the next gateway sweeps it away.
"""

import fcntl
import os
import secrets
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.images.budget import Budget

MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps files in memory; the folder in it is private
PREFIX = "altgate-pictures-"


class Shelf:
    """The folder, as a context manager. `ready` says whether there is one: not on every system."""

    def __init__(self, root: Path = MEMORY) -> None:
        self.folder = root / f"{PREFIX}{secrets.token_hex(8)}"
        self.ready = False
        self._root = root
        self._users: Counter[str] = Counter()
        self._lock = -1

    def __enter__(self) -> Self:
        with suppress(OSError):
            sweep(self._root)
            hidden = self.folder.with_name(f".{self.folder.name}")
            hidden.mkdir(mode=0o700)
            self._lock = _locked(hidden)
            hidden.rename(self.folder)  # seen by others only with its lock
            self.ready = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ready:
            self.ready = False
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)

    def has(self, name: str) -> bool:
        """Whether there is a picture of that name."""
        return name in self._users

    def take(self, name: str) -> None:
        """Counts another user of the picture."""
        self._users[name] += 1

    def put_back(self, name: str) -> None:
        """Counts one user less; the last one's picture is removed."""
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
            with suppress(OSError):
                (self.folder / name).unlink()


class Lease:
    """What one request has of what all share, given back at the context's end.

    `share` is its part of the memory for decoding; `shelf` is None where its engine is elsewhere.
    """

    def __init__(self, share: Budget, shelf: Shelf | None) -> None:
        self.share = share
        self.shelf = shelf
        self._names: list[str] | None = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        names, self._names = self._names, None
        for name in names or ():
            self._shelf.put_back(name)

    def take(self, name: str) -> str:
        """The URL of a picture on the shelf, which stays there while the lease lasts."""
        self._shelf.take(name)
        if self._names is None:  # the request is over: it was decoded for nobody
            self._shelf.put_back(name)
        else:
            self._names.append(name)
        return f"file://{self._shelf.folder / name}"

    @property
    def _shelf(self) -> Shelf:
        if self.shelf is None:
            raise RuntimeError("this lease has no shelf")
        return self.shelf


class Place:
    """A file on the shelf that a worker writes; it has its name only once it is whole. A `Room` of the pool."""

    def __init__(self, lease: Lease, folder: Path, name: str) -> None:
        self._lease = lease
        self._file = folder / name
        self._unfinished = folder / secrets.token_hex(16)
        self.descriptor = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
        self._unfinished.unlink(missing_ok=True)

    def reserve(self, size: int) -> None:
        """Gets so many bytes.

        Raises:
            OSError: there is no memory left.
        """
        os.posix_fallocate(self.descriptor, 0, size)

    def taken(self, used: int) -> str:
        """The URL of the picture, of which so many bytes were written."""
        os.truncate(self.descriptor, used)
        self._unfinished.replace(self._file)
        return self._lease.take(self._file.name)


def sweep(root: Path) -> None:
    """Removes the folders of gateways that are no more."""
    for folder in root.glob(f"{PREFIX}*"):
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
