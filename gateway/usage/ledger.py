"""Counts requests as they end, and writes the counts down once a second.

A request costs a few additions; the rest happens in batches, beside the event loop's work. What was counted and not yet
written is lost by a gateway that is killed, and by nothing else: a batch that failed, or of which nobody knows, is
written again under its number, which counts once.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice, takewhile
from types import TracebackType
from typing import Self

from gateway.record import Record, Teller
from gateway.usage.counts import NOBODY, Account, Batch, Counts, Query
from gateway.usage.settings import Price
from gateway.usage.store import Store, Unkept
from gateway.wire import KeptIn

log = logging.getLogger(__name__)

WRITE_EVERY = 1.0  # seconds: what a gateway that is killed has counted in vain, at most
LAST = 3.0  # seconds that writing may take at the end
TRY_EVERY = 0.2  # seconds, then
KEPT_FOR = 400  # days
MOST_ACCOUNTS = 100_000  # not yet written; further ones are counted together
MOST_IN_BATCH = 500
OTHERS = "(others)"
UNAUTHORIZED = HTTPStatus.UNAUTHORIZED.value  # a plain number: an enumeration's member takes far longer to compare
_DAY = 86_400  # seconds
_FREE = Price()


class Ledger:
    """What was used. `clock` gives seconds since 1970; days are UTC's. Use it as an async context manager."""

    def __init__(self, store: Store, prices: Mapping[str, Price], clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._prices = prices
        self._clock = clock
        self._writer = secrets.token_hex(8)
        self._number = 0
        self._counts: dict[Account, Counts] = {}
        self._unsure: Batch | None = None
        self._turn = asyncio.Lock()
        self._day, self._day_number = "", -1
        self._is_behind = False
        self._tidied = ""
        self._writing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write_last()
        await self._store.close()

    @property
    def kept(self) -> KeptIn:
        """Where usage is kept."""
        return self._store.kept

    @property
    def today(self) -> str:
        """The day, UTC's, on which a request counts that ends now."""
        number = int(self._clock()) // _DAY
        if number != self._day_number:
            self._day_number, self._day = number, _iso(number)
        return self._day

    @property
    def oldest(self) -> str:
        """The first day that is kept."""
        return _iso(int(self._clock()) // _DAY - KEPT_FOR + 1)

    def teller(self, route: Callable[[str], str], counts: str) -> Teller:
        """Counts what was posted to the route that counts, but not what came without a key that holds: it is nobody's.

        `route` has the route of a path.
        """

        def tell(records: Sequence[Record]) -> None:
            known = [record for record in records if record.method == "POST" and record.status != UNAUTHORIZED]
            self.count(*[record for record in known if route(record.path) == counts])

        return tell

    def count(self, *records: Record) -> None:
        """Counts requests that are over, today: all of them, or none, and then it raises."""
        groups: dict[tuple[str, str, str | None], tuple[Counts, Price]] = {}
        for record in records:
            caller = record.caller
            whose = caller.key_id, caller.team, record.model
            found = groups.get(whose)
            if found is None:
                found = groups[whose] = Counts(), self._prices.get(record.model or NOBODY, _FREE)
            counts, price = found
            counts.count(record, price)
        for names, (counts, _) in groups.items():
            self._account(*(name or NOBODY for name in names)).add(counts)

    def _account(self, key: str, team: str, model: str) -> Counts:
        """What is counted there today; where there are too many, with all others."""
        account = Account(self.today, key, team, model)
        if account not in self._counts and len(self._counts) >= MOST_ACCOUNTS:
            account = Account(account.day, OTHERS, OTHERS, OTHERS)
        return self._counts.setdefault(account, Counts())

    async def read(self, query: Query) -> Mapping[Account, Counts]:
        """The sums of each group, with all that was counted here so far; other processes' are a second old at most.

        Raises:
            Unkept: they cannot be had.
            TooMuch: they are too many.
        """
        await self.flush()
        return await self._store.read(query)

    async def flush(self) -> None:
        """Writes down all that was counted.

        Raises:
            Unkept: it cannot be written now; it is kept and written later.
        """
        async with self._turn:
            due = len(self._counts)  # what is counted meanwhile is not waited for: there may always be more
            while self._unsure is not None or due > 0:
                if self._unsure is None:
                    self._unsure = self._next()
                    due -= len(self._unsure.counts)
                await self._store.add(self._unsure)
                self._unsure = None

    def _next(self) -> Batch:
        """What is to be written next, of one day."""
        day = next(iter(self._counts)).day
        accounts = list(islice(takewhile(lambda account: account.day == day, self._counts), MOST_IN_BATCH))
        self._number += 1
        counts = {account: self._counts.pop(account) for account in accounts}
        return Batch(writer=self._writer, number=self._number, day=day, counts=counts)

    async def _write(self) -> None:
        while True:
            try:
                await self._round()
            except Exception:  # whatever it is, counting goes on
                log.exception("Usage could not be written; it is tried again")
            await asyncio.sleep(WRITE_EVERY)

    async def _round(self) -> None:
        try:
            await self.flush()
        except Unkept as error:
            if not self._is_behind:
                log.warning("Usage cannot be written (%s): it is counted, and written when that works again", error)
            self._is_behind = True
            return
        if self._is_behind:
            log.info("Usage is written again")
        self._is_behind = False
        if self._tidied != self.today:
            today = self.today
            with suppress(Unkept):  # then in the next round
                await self._store.tidy(self.oldest)
                self._tidied = today

    async def _write_last(self) -> None:
        gives_up = asyncio.get_running_loop().time() + LAST
        while not await self._is_flushed():
            if asyncio.get_running_loop().time() >= gives_up:
                break
            await asyncio.sleep(TRY_EVERY)
        else:
            return
        left = [*self._counts.values(), *(self._unsure.counts.values() if self._unsure is not None else ())]
        requests = sum(counts.requests + counts.failed for counts in left)
        log.error("The usage of %d requests could not be written, and is lost", requests)

    async def _is_flushed(self) -> bool:
        try:
            async with asyncio.timeout(LAST):
                await self.flush()
        except (Unkept, TimeoutError):
            return False
        return not self._counts  # others may have ended meanwhile


def _iso(number: int) -> str:
    """The day that begins so many days after 1970 did."""
    return datetime.fromtimestamp(number * _DAY, UTC).date().isoformat()
