"""What is counted, for whom, and how counts are chosen and added up. Pure.

Every number is whole, money too, so that sums are exact in whatever order they are made.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from gateway.record import Record
from gateway.usage.settings import Price
from gateway.wire import Usage

Dimension = Literal["day", "key", "team", "model"]

ANSWERED = range(200, 300)  # statuses
NOBODY = "-"  # the key and the team where no keys are configured, and the model that was never known


class Account(NamedTuple):
    """Whose counts they are; `day` is a UTC day as ISO 8601 writes it. A part that does not matter is empty."""

    day: str
    key: str
    team: str
    model: str


class Counts(Struct):
    """What is counted.

    `requests` were answered, `failed` were not: refused, failed also in the middle of a stream, or left by their client
    before there was an answer. `unmetered` are those of the requests whose tokens nobody knows, for their client left
    in mid-stream, or the engine does not say. Pictures and tokens are of the requests, cached ones included; tokens of
    pictures are among the prompt's. `saved_…` is what making an answer anew would have taken where it was found
    (`hits`) or shared while it was made (`joins`). Money is in billionths.
    """

    requests: int = 0
    failed: int = 0
    unmetered: int = 0
    pictures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    picture_tokens: int = 0
    hits: int = 0
    joins: int = 0
    saved_tokens: int = 0
    saved_milliseconds: int = 0
    cost: int = 0
    saved_cost: int = 0

    def count(self, record: Record, price: Price) -> None:
        """Adds what one request counts for."""
        if record.error is not None or record.status not in ANSWERED:
            self.failed += 1
            return
        self.requests += 1
        if record.digests:
            self.pictures += len(record.digests)
        if record.cache == "hit":
            self.hits += 1
        elif record.cache == "join":
            self.joins += 1
        usage = record.usage
        if usage is None or not usage.total_tokens:
            self.unmetered += 1
        if usage is not None:
            self._count_tokens(record, usage, price)

    def _count_tokens(self, record: Record, usage: Usage, price: Price) -> None:
        prompt, completion, details = usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details
        worth = price.of(len(record.digests), prompt, completion)
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        if details is not None:
            self.picture_tokens += details.image_tokens
        if record.saved is None:
            self.cost += worth
        else:
            self.saved_cost += worth
            self.saved_tokens += usage.total_tokens
            self.saved_milliseconds += round(record.saved * 1000)

    def add(self, more: "Counts") -> None:
        """Adds them up, in place."""
        for name in COUNTERS:
            if amount := getattr(more, name):
                setattr(self, name, getattr(self, name) + amount)


COUNTERS = Counts.__struct_fields__


class Batch(Struct, frozen=True, kw_only=True):
    """What one writer adds to one day in one go. Its batches are numbered upwards and added in that order.

    A store that remembers the last number of each writer adds a batch once, however often it is told.
    """

    writer: str
    number: int
    day: str
    counts: Mapping[Account, Counts]


class Query(Struct, frozen=True, kw_only=True):
    """Which counts are meant, from one day to another, both included, and by what they are told apart."""

    first: str
    last: str
    key: str | None = None
    team: str | None = None
    model: str | None = None
    by: Sequence[Dimension] = ("day", "key", "team", "model")

    def holds(self, account: Account) -> bool:
        """Whether it is meant."""
        wanted = ((self.key, account.key), (self.team, account.team), (self.model, account.model))
        return self.first <= account.day <= self.last and all(want in (None, is_) for want, is_ in wanted)

    def group(self, account: Account) -> Account:
        """The account with whatever it is not told apart by left out."""
        return Account(*(part if name in self.by else "" for name, part in zip(Account._fields, account, strict=True)))
