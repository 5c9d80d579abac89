"""What a key has used of its limits: the books of this process, and what one request takes out of them."""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from math import ceil
from types import TracebackType
from typing import Literal, Protocol, Self, get_args

from msgspec import Struct

from gateway.auth import Caller
from gateway.bucket import Bucket, bucket
from gateway.errors import LimitReached

Reason = Literal["requests", "pictures", "concurrent"]
LONGEST_IN_MILLISECONDS = 0.999
BUSY_RETRY = 1.0  # seconds: nobody knows when one of the caller's own requests ends


class Wanted(Struct, frozen=True, kw_only=True):
    """What a request takes; `place` is the name of its place among those under way, None where it takes none."""

    requests: int = 0
    pictures: int = 0
    place: str | None = None


class Outcome(Struct, frozen=True):
    """The buckets afterwards, each None without a limit; when something is `refused`, nothing was taken."""

    requests: Bucket | None
    pictures: Bucket | None
    refused: Reason | None = None


def none_refused() -> Counter[Reason]:
    """Each limit, by which nothing was refused yet."""
    return Counter(dict.fromkeys(get_args(Reason), 0))


class Books(Protocol):
    """Where it is written down what each key has used. They work inside their context.

    `refused` counts what was refused for each limit.
    """

    refused: Counter[Reason]

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def take(self, caller: Caller, wanted: Wanted) -> Outcome:
        """Takes all that is wanted, or nothing; never waits for long."""
        ...

    async def give_back(self, caller: Caller, taken: Wanted) -> None:
        """Gives back what was taken: a place, or what is not to be charged after all; never waits for long."""
        ...


class LocalBooks:
    """The books of one process. `clock` gives whole microseconds."""

    def __init__(self, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self.refused = none_refused()
        self._clock = clock
        self._full_at: dict[tuple[str, Reason], int] = {}
        self._places: defaultdict[str, set[str]] = defaultdict(set)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def take(self, caller: Caller, wanted: Wanted) -> Outcome:
        """Takes all that is wanted, or nothing."""
        outcome = self.outcome(caller, wanted)
        self.note(caller, wanted, outcome)
        return outcome

    def outcome(self, caller: Caller, wanted: Wanted) -> Outcome:
        """What would come of taking it now; nothing is written down."""
        requests = self._bucket(caller, "requests", caller.requests_per_minute)
        pictures = self._bucket(caller, "pictures", caller.pictures_per_minute)
        refused = self._refused(caller, wanted, requests, pictures)
        if refused is None:
            requests = requests and requests.without(wanted.requests)
            pictures = pictures and pictures.without(wanted.pictures)
        return Outcome(requests, pictures, refused)

    def note(self, caller: Caller, wanted: Wanted, outcome: Outcome) -> None:
        """Writes down what came of it, here or elsewhere; what was taken before stays taken."""
        now = self._clock()
        kinds: tuple[tuple[Reason, Bucket | None], ...] = (
            ("requests", outcome.requests),
            ("pictures", outcome.pictures),
        )
        for kind, left in kinds:
            if left is not None:
                before = self._full_at.get((caller.key_id, kind), 0)
                self._full_at[caller.key_id, kind] = max(before, now + left.debt)
        if wanted.place is not None and outcome.refused is None:
            self._places[caller.key_id].add(wanted.place)

    async def give_back(self, caller: Caller, taken: Wanted) -> None:
        """Gives back what was taken."""
        self.restore(caller, taken)

    def restore(self, caller: Caller, taken: Wanted) -> None:
        """The same, for who cannot wait at all."""
        kinds: tuple[tuple[Reason, int | None, int], ...] = (
            ("requests", caller.requests_per_minute, taken.requests),
            ("pictures", caller.pictures_per_minute, taken.pictures),
        )
        for kind, limit, count in kinds:
            if limit is not None and (caller.key_id, kind) in self._full_at:
                self._full_at[caller.key_id, kind] -= count * Bucket(limit).interval
        if taken.place is not None:
            self._places[caller.key_id].discard(taken.place)

    def under_way(self) -> Mapping[str, frozenset[str]]:
        """The places that are held, by the name of the key."""
        return {key_id: frozenset(places) for key_id, places in self._places.items() if places}

    def _bucket(self, caller: Caller, kind: Reason, limit: int | None) -> Bucket | None:
        if limit is None:
            return None
        return bucket(limit, full_at=self._full_at.get((caller.key_id, kind), 0), now=self._clock())

    def _refused(
        self, caller: Caller, wanted: Wanted, requests: Bucket | None, pictures: Bucket | None
    ) -> Reason | None:
        busy = len(self._places[caller.key_id])
        if wanted.place is not None and caller.concurrent is not None and busy >= caller.concurrent:
            return "concurrent"
        if requests is not None and not requests.holds(wanted.requests):
            return "requests"
        if pictures is not None and not pictures.holds(wanted.pictures):
            return "pictures"
        return None


class Allowance:
    """What one request takes of its key's limits, and what it can say of them in headers."""

    def __init__(self, caller: Caller, books: Books) -> None:
        self._caller = caller
        self._books = books
        self._last: Outcome | None = None
        self._place: str | None = None
        self._requests = self._pictures = 0

    async def begin(self) -> None:
        """Charges a request, and gives it a place among those of the key; `leave` has to be called in any case.

        Raises:
            LimitReached: the key has too many requests under way, or has made too many.
        """
        if self._is_limited:
            self._place = uuid.uuid4().hex if self._caller.concurrent is not None else None
            try:
                await self._take(Wanted(requests=1, place=self._place))
            except LimitReached:
                self._place = None
                raise
            self._requests = 1

    async def leave(self) -> None:
        """Gives the place back: before the last byte is sent, for whoever has an answer may ask again at once."""
        place, self._place = self._place, None
        if place is not None:
            await self._books.give_back(self._caller, Wanted(place=place))

    async def take_pictures(self, count: int) -> None:
        """Charges the pictures of the request.

        Raises:
            LimitReached: they are more than the key may send now.
        """
        if count and self._caller.pictures_per_minute is not None:
            await self._take(Wanted(pictures=count))
            self._pictures = count

    async def waive(self) -> None:
        """Takes the charge back: nothing was done for the request, and not for a fault of its own."""
        charged = Wanted(requests=self._requests, pictures=self._pictures)
        self._requests = self._pictures = 0
        if charged != Wanted():
            await self._books.give_back(self._caller, charged)
            self._last = None

    async def settle(self) -> None:
        """Learns how things stand, for the headers, where that is not known yet."""
        if self._last is None and self._is_limited:
            self._last = await self._books.take(self._caller, Wanted())

    def headers(self) -> Mapping[str, str]:
        """How the key's limits stand, in OpenAI's headers; none without limits, or while that is not settled."""
        last = self._last or Outcome(None, None)
        kinds = (("requests", last.requests), ("pictures", last.pictures))
        return {
            f"x-ratelimit-{name}-{kind}": value
            for kind, left in kinds
            if left is not None
            for name, value in (
                ("limit", str(left.limit)),
                ("remaining", str(left.remaining)),
                ("reset", duration(left.reset)),
            )
        }

    @property
    def _is_limited(self) -> bool:
        caller = self._caller
        return any(
            limit is not None for limit in (caller.requests_per_minute, caller.pictures_per_minute, caller.concurrent)
        )

    async def _take(self, wanted: Wanted) -> None:
        self._last = last = await self._books.take(self._caller, wanted)
        if last.refused is not None:
            self._books.refused[last.refused] += 1
        match last.refused:
            case "concurrent":
                most = _several(self._caller.concurrent or 0, "request")
                sentence = f"This key may have {most} under way at once. Wait until one ends."
                raise LimitReached(sentence, retry_after=BUSY_RETRY)
            case "requests":
                raise _used_up("request", last.requests, wanted.requests)
            case "pictures":
                raise _used_up("picture", last.pictures, wanted.pictures)


def _used_up(what: str, left: Bucket | None, count: int) -> LimitReached:
    if left is None:
        raise RuntimeError("only a limit refuses")
    wait = left.wait(count)
    sentence = f"This key may send {_several(left.limit, what)} a minute."
    if wait is None:
        return LimitReached(f"{sentence} The request has {count}. Send fewer at once.")
    return LimitReached(f"{sentence} Try again in {duration(ceil(wait))}.", retry_after=max(1, wait))


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float) -> str:
    """A time as OpenAI writes it in headers: "0s", "120ms", "1s", "6m0s"."""
    if 0 < seconds <= LONGEST_IN_MILLISECONDS:
        return f"{ceil(seconds * 1000)}ms"
    minutes, rest = divmod(ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
