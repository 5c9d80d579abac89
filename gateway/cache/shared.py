"""The seam to where all gateways keep answers."""

from collections.abc import Callable
from typing import Protocol

from gateway.cache.selection import Selection
from gateway.cache.stored import Stored
from gateway.wire import Amount


class SharedStore(Protocol):
    """Answers of all gateways, by key. It may be away at any time; `lost` counts the answers that it was not given."""

    lost: int

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

    def put(self, value: Stored, *, removed: Callable[[], None]) -> None:
        """Keeps an answer, without making anyone wait; or calls `removed`, when its like was since its making began."""
        ...

    async def count(self) -> Amount:
        """What all gateways keep here."""
        ...

    async def remove(self, selection: Selection) -> Amount:
        """Removes the answers that are meant, those under way too, and nothing else."""
        ...
