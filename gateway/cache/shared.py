"""The seam to where all gateways keep answers."""

from typing import Protocol

from gateway.cache.selection import Selection
from gateway.cache.stored import Stored
from gateway.wire import Amount


class SharedStore(Protocol):
    """Answers of all gateways, by key. It may be away at any time."""

    @property
    def description(self) -> str:
        """For people; without secrets."""
        ...

    async def get(self, key: str) -> Stored | None:
        """The answer under a key.

        Raises:
            Unanswered: nobody said.
        """
        ...

    def put(self, value: Stored) -> None:
        """Keeps an answer, without making anyone wait; not one whose making began before its like was removed."""
        ...

    async def count(self) -> Amount:
        """What all gateways keep here."""
        ...

    async def remove(self, selection: Selection) -> Amount:
        """Removes the answers that are meant, those under way too, and nothing else."""
        ...
