"""Memory that two processes share: what the gateway and its decoding workers hand each other, without a copy by pipe.

Linux has files that lie in memory, have no name and can be sealed; elsewhere a temporary file without a name does.
"""

import fcntl
import mmap
import os
import tempfile
from types import TracebackType

View = mmap.mmap | bytes

_CAN_SEAL = hasattr(os, "memfd_create")


class Memory:
    """Shared memory with its descriptor, which the context's end closes; what was mapped stays."""

    def __init__(self) -> None:
        if _CAN_SEAL:
            self.descriptor = os.memfd_create("altgate", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())

    def __enter__(self) -> "Memory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def hold(self, data: bytes) -> None:
        """Takes in the data, and will not change any more.

        Raises:
            OSError: there is no memory left.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        if _CAN_SEAL:
            self._seal(fcntl.F_SEAL_WRITE)

    def reserve(self, size: int) -> None:
        """Gets so many bytes, for another process to write to, which cannot change their number.

        Raises:
            OSError: there is no memory left. Without this, the other process would die of it.
        """
        os.truncate(self.descriptor, size)
        if _CAN_SEAL:
            os.posix_fallocate(self.descriptor, 0, size)
            self._seal(0)

    def taken(self, used: int) -> View:
        """The first `used` bytes, which the other process has written."""
        if not _CAN_SEAL:  # then they could be cut off under our eyes, which would end us
            return os.pread(self.descriptor, used, 0)
        return mmap.mmap(self.descriptor, used, mmap.MAP_SHARED, mmap.PROT_READ)

    def _seal(self, more: int) -> None:
        fcntl.fcntl(
            self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | more
        )
