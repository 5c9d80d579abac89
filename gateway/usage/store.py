"""The seam to where usage is kept."""

from collections.abc import Mapping
from typing import Protocol

from gateway.usage.counts import Account, Batch, Counts, Query
from gateway.wire import KeptIn

MAX_ROWS = 10_000  # in one answer


class Unkept(Exception):
    """It cannot be written or read now, and can be tried again; in a few words for the log."""


class TooMuch(Exception):
    """The query has more than `MAX_ROWS` groups."""


class Store(Protocol):
    """Where usage is kept."""

    @property
    def kept(self) -> KeptIn:
        """What kind of place that is."""
        ...

    async def add(self, batch: Batch) -> None:
        """Adds a batch, unless it was added before.

        Raises:
            Unkept: nobody knows whether it was.
        """
        ...

    async def read(self, query: Query) -> Mapping[Account, Counts]:
        """The sums of each group.

        Raises:
            Unkept: they cannot be had.
            TooMuch: they are too many.
        """
        ...

    async def tidy(self, before: str) -> None:
        """Forgets the days before that one.

        Raises:
            Unkept: not now.
        """
        ...

    async def close(self) -> None:
        """Nothing is asked of it any more."""
        ...
