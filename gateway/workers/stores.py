"""What the owner is to its workers where there is no Redis: limits, leases, kept answers."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from gateway.auth import Caller
from gateway.cache import Selection, Stored
from gateway.cache.stored import MAX_VALUE, encode, read
from gateway.quota import Outcome, Wanted, none_refused
from gateway.wire import Amount
from gateway.workers import messages
from gateway.workers.contact import Contact


class OwnerBooks:
    """What keys have used of their limits, in the owner's books. Places go back by themselves when the worker ends."""

    def __init__(self, contact: Contact) -> None:
        self._contact = contact
        self.refused = none_refused()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def take(self, caller: Caller, wanted: Wanted) -> Outcome:
        """Takes all that is wanted, or nothing."""
        return (await self._contact.ask(messages.Charge(caller, wanted), messages.Charged)).outcome

    async def give_back(self, caller: Caller, taken: Wanted) -> None:
        """Gives back what was taken."""
        self._contact.tell(messages.GiveBack(caller, taken))


class OwnerLeases:
    """Leases by name, given out by the owner to one worker at a time."""

    def __init__(self, contact: Contact) -> None:
        self._contact = contact

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """The lease of that name, once it can be had; nothing when the wait was long enough."""
        async with self._contact.lent(messages.Lease(name)):
            yield


class OwnerStore:
    """Answers in the owner's memory, for all workers."""

    def __init__(self, contact: Contact, *, max_bytes: int) -> None:
        self._contact = contact
        self.lost = 0
        self.description = f"in memory, up to {max_bytes / 2**20:.0f} MiB"

    async def get(self, key: str) -> Stored | None:
        """The answer under a key."""
        data = (await self._contact.ask(messages.Find(key), messages.Found)).data
        return None if data is None else read(data, key, time.time())

    def put(self, value: Stored, *, removed: Callable[[], None]) -> None:  # noqa: ARG002 - each worker knows for itself
        """Has an answer kept; it is there before anything else that this worker says."""
        data = encode(value)
        if len(data) <= MAX_VALUE:
            self._contact.tell(messages.Keep(value.key, data))

    async def count(self) -> Amount:
        """What is kept."""
        return (await self._contact.ask(messages.Count(), messages.Amounts)).amount

    async def remove(self, selection: Selection) -> Amount:
        """Removes the answers that are meant."""
        return (await self._contact.ask(messages.Forget(selection), messages.Amounts)).amount
