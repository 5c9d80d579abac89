"""The memory for pictures that all workers have together."""

from collections import defaultdict

from gateway.images.budget import Budget, Purpose
from gateway.workers import messages
from gateway.workers.contact import Contact

LARGE = 4  # what takes more than one in so many of the worker's own bytes comes from the owner


class LentBudget(Budget):
    """So many bytes of the worker's own, for what is small, which is most; `lent` more are the owner's, for the rest.

    Divided among workers, the memory would not be enough for a picture of the largest size.
    """

    def __init__(self, own: int, lent: int, contact: Contact, purpose: Purpose) -> None:
        super().__init__(own)
        self._most = lent
        self._contact = contact
        self._purpose = purpose
        self._borrowed: defaultdict[int, list[int]] = defaultdict(list)  # the calls for each amount

    async def take(self, wanted: int) -> int:
        """Takes `wanted` bytes, all there are when it is more; waits in line for what is not free."""
        if wanted <= self.size // LARGE:
            return await super().take(wanted)
        amount = min(wanted, self._most)
        call = await self._contact.borrow(messages.Memory(self._purpose, amount))
        self._borrowed[amount].append(call)  # not before: while this one waited, the list may have gone
        return amount

    def give_back(self, taken: int) -> None:
        """What was taken is free again, for whoever is first in line."""
        calls = self._borrowed.get(taken)
        if calls is None:
            super().give_back(taken)
            return
        self._contact.tell(messages.Leave(calls.pop()))
        if not calls:
            del self._borrowed[taken]
