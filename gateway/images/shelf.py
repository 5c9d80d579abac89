"""Pictures as files in memory, for the engines of this machine: nothing travels between our own processes but a name.

The files lie in a private folder, under their digests, each for as long as a request uses it.
"""

import os
import secrets
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.folder import Folder
from gateway.images.budget import Budget

MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps files in memory; the folder in it is private
PREFIX = "altgate-pictures-"


class Shelf:
    """The folder, as a context manager. `ready` says whether there is one: not on every system."""

    def __init__(self, root: Path = MEMORY) -> None:
        self._private = Folder(root, PREFIX)
        self.folder = self._private.path
        self.ready = False
        self._users: Counter[str] = Counter()
        self._whole: set[str] = set()

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._private.__enter__()
            self.ready = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ready:
            self.ready = False
            self._private.__exit__(kind, error, trace)

    def has(self, name: str) -> bool:
        """Whether there is a picture of that name."""
        return name in self._whole

    def take(self, name: str) -> None:
        """Counts another user of the picture, which may still be on its way."""
        self._users[name] += 1

    def put_back(self, name: str) -> None:
        """Counts one user less; the last one's picture is removed."""
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
            self._remove(name)

    def add(self, name: str) -> None:
        """The picture's file is there; if all its users have left, it goes at once."""
        self._whole.add(name)
        if name not in self._users:
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._whole.discard(name)
        with suppress(OSError):
            (self.folder / name).unlink()


class Lease:
    """What one request has of what all share, given back at the context's end.

    `share` is its part of the memory for decoding, `decoded` the memory in which all decoded pictures lie; `shelf` is
    None where its engine is elsewhere.
    """

    def __init__(self, share: Budget, decoded: Budget, shelf: Shelf | None) -> None:
        self.share = share
        self.shelf = shelf
        self._decoded = decoded
        self._held: list[int] = []
        self._names: list[str] | None = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        names, self._names = self._names, None
        for name in names or ():
            self._shelf.put_back(name)
        held, self._held = self._held, []
        for taken in held:
            self._decoded.give_back(taken)

    async def hold(self, size: int) -> None:
        """Holds so many bytes for decoded pictures while the lease lasts, in all; waits in line for them."""
        if size <= sum(self._held):
            return  # an engine is asked once more
        taken = await self._decoded.take(size - sum(self._held))
        if self._names is None:  # the request is over
            self._decoded.give_back(taken)
        else:
            self._held.append(taken)

    def take(self, name: str) -> str:
        """The URL of a picture on the shelf; once it is there, it stays while the lease lasts."""
        self._shelf.take(name)
        if self._names is None:  # the request is over
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

    def __init__(self, shelf: Shelf, name: str) -> None:
        self._shelf = shelf
        self._file = shelf.folder / name
        self._unfinished = shelf.folder / secrets.token_hex(16)
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

    def taken(self, used: int) -> None:
        """Has the picture, of which so many bytes were written, on the shelf."""
        os.truncate(self.descriptor, used)
        self._unfinished.replace(self._file)
        self._shelf.add(self._file.name)
