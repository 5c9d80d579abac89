"""Identical requests under way share one generation.

Whoever asks first starts a flight; whoever asks for the same while it lasts comes aboard, is given what was made so far
and then the rest. The generation belongs to none of them: it lasts for as long as somebody is aboard, and when the last
one leaves, it is ended, all the way into the engine.
"""

import asyncio
import math
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self

from msgspec import Struct

from gateway.errors import EngineFault, EngineUnavailable
from gateway.wire import Choice, Chunk, ChunkChoice, Usage, encode

MAX_KEPT = 4 * 2**20  # bytes of chunks, about
OBJECTS = 4  # bytes that objects take for each byte of their JSON
MANY = 2


class Made(Struct, frozen=True, kw_only=True):
    """A whole answer. `seconds` is what making it took; `found` says that another gateway made it."""

    choices: list[Choice]
    usage: Usage
    seconds: float
    found: bool = False


Generate = Callable[["Flight", float | None], Awaitable[Made]]
"""Makes the answer, within so many seconds of waiting for the engine to load; None is as long as is configured."""


class Flight:
    """One generation.

    `begun` is to be set when the engine has it, to the time of the monotonic clock: from then on nobody waits for a
    load any more. `is_taken` is to be set by the first who has the whole answer: for all others it was made already.
    """

    def __init__(self, generate: Generate, *, wait: float | None, until: float) -> None:
        self._generate = generate
        self._wait = wait
        self._until = self._latest = until
        self._pieces: list[Chunk] = []
        self._ends: list[int] = []  # bytes of each piece and all before it
        self._forgotten = self._forgotten_bytes = 0
        self._is_paced = False  # whether it waits for a reader
        self._readers: dict[object, int] = {}
        self._news = asyncio.Event()
        self._made: Made | None = None
        self._error: Exception | None = None
        self._late: EngineUnavailable | None = None  # what those hear whose patience has ended
        self._late_until = -math.inf
        self.aboard = 0
        self.begun: float | None = None
        self.is_taken = False
        self.is_open = True  # to those who want to come aboard
        self.task = asyncio.create_task(self._fly())

    def takes(self, until: float) -> bool:
        """Whether somebody who waits for a load until then can come aboard and not have to wait longer."""
        return self.is_open and (self.begun is not None or self._until <= until)

    def join(self, until: float) -> None:
        """One more is aboard, who waits for a load until then."""
        self.aboard += 1
        self._latest = max(self._latest, until)
        if self._is_paced:
            self._tell()

    async def publish(self, piece: Chunk) -> None:
        """Adds a piece. A long answer is made at the pace of its quickest reader, and its beginning is forgotten.

        Where somebody waits for it whole, it is made at the engine's own. So nobody who stalls holds up the others:
        whoever falls behind by half of what is kept may have lost it.
        """
        self._pieces.append(piece)
        self._ends.append(self._end_of(len(self._pieces) - 1) + weight(piece))
        self._tell()
        while self._ahead > MAX_KEPT / 2:
            self._is_paced = True
            await self._news.wait()
        self._is_paced = False
        while len(self._pieces) > 1 and self._ends[-1] - self._forgotten_bytes > MAX_KEPT:
            self.is_open = False
            self._forgotten, self._forgotten_bytes = self._forgotten + 1, self._ends.pop(0)
            del self._pieces[0]

    async def pieces(self, until: float) -> AsyncGenerator[Chunk, None]:
        """What was made so far and then the rest; nothing of an answer that comes whole.

        Raises:
            GatewayError: there is no answer, or the engine has not loaded by then, or others have read on too far.
        """
        reader, at = object(), 0
        try:
            while True:
                self._note(reader, at)
                if at < self._forgotten:
                    raise EngineUnavailable(
                        "The answer is too long to be kept for those who read more slowly than others who have asked "
                        "for the same. Ask again."
                    )
                if at < self._end:
                    yield self._pieces[at - self._forgotten]
                    at += 1
                elif self._outcome(until) is not None:
                    return
                else:
                    await self._news.wait()
        finally:
            del self._readers[reader]
            self._tell()

    async def landed(self, until: float) -> Made:
        """The whole answer.

        Raises:
            GatewayError: as `pieces`.
        """
        while (made := self._outcome(until)) is None:
            await self._news.wait()
        return made

    def _note(self, reader: object, at: int) -> None:
        """How far a reader has come, which matters where the answer is made at its pace."""
        if self._readers.get(reader) != at:
            self._readers[reader] = at
            if self._is_paced:
                self._tell()

    @property
    def _ahead(self) -> int:
        """How many bytes were made that nobody has read yet; none where somebody waits for the whole answer."""
        if self.aboard > len(self._readers):
            return 0
        quickest = max(self._readers.values(), default=self._end)
        return self._ends[-1] - self._end_of(max(0, quickest - self._forgotten))

    def _end_of(self, count: int) -> int:
        """The bytes up to there: of what is forgotten, and of so many pieces that are kept."""
        return self._ends[count - 1] if count else self._forgotten_bytes

    @property
    def _end(self) -> int:
        return self._forgotten + len(self._pieces)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _outcome(self, until: float) -> Made | None:
        """The answer, None while it is being made."""
        error = self._error or (self._late if until <= self._late_until else None)
        if error is not None:
            raise error.with_traceback(None)
        return self._made

    async def _fly(self) -> None:
        try:
            self._made = await self._attempts()
        except asyncio.CancelledError:
            self._error = EngineUnavailable("The work was given up. Try again.")
            raise
        except Exception as error:  # noqa: BLE001 - whoever is aboard raises it
            self._error = error
        finally:
            self.is_open = False
            self._tell()

    async def _attempts(self) -> Made:
        """Tries again once for all aboard, and for those who would wait longer for a load than the first one did."""
        wait, is_first = self._wait, True
        while True:
            try:
                return await self._generate(self, wait)
            except EngineFault:
                if not is_first or self.aboard < MANY or self._end:
                    raise
                is_first = False
            except EngineUnavailable as error:
                if self.begun is not None or self._latest <= self._until:
                    raise
                self._late, self._late_until, self._until = error, self._until, self._latest
                wait = max(0.0, self._until - time.monotonic())
                self._tell()


class Flights:
    """The flights that others can come aboard of, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def close(self, meant: Callable[[str], bool]) -> None:
        """From now on nobody comes aboard of flights whose key is meant; those who are aboard stay."""
        for key in [key for key in self._flights if meant(key)]:
            del self._flights[key]

    def aboard(self, key: str | None, generate: Generate, *, wait: float | None, until: float) -> "Passage":
        """A place aboard a flight, to be entered at once; without a key it is one's own.

        `wait` is how many seconds the engine may load, None for what is configured; then it is `until`, by the
        monotonic clock.
        """
        flight = self._flights.get(key or "")
        joined = flight is not None and flight.takes(until)
        if flight is None or not joined:
            flight = self._started(key, Flight(generate, wait=wait, until=until))
        flight.join(until)
        return Passage(flight, until, joined=joined, forget=partial(self._forget, key, flight))

    def _started(self, key: str | None, flight: Flight) -> Flight:
        if key is not None:
            self._flights[key] = flight  # from now on; those aboard of another one stay with it
            flight.task.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _forget(self, key: str | None, flight: Flight) -> None:
        if key is not None and self._flights.get(key) is flight:
            del self._flights[key]


class Passage:
    """A place aboard a flight for as long as its context lasts; `joined` says that the flight was under way already.

    Whoever leaves last ends the flight. (A class, since a generator's context takes six times as long.)
    """

    def __init__(self, flight: Flight, until: float, *, joined: bool, forget: Callable[[], None]) -> None:
        self.flight = flight
        self.joined = joined
        self._until = until
        self._forget = forget

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flight.aboard -= 1
        if self.flight.aboard:
            return
        self._forget()
        if not self.flight.task.done():
            self.flight.task.cancel()
            await asyncio.gather(self.flight.task, return_exceptions=True)

    def pieces(self) -> AsyncGenerator[Chunk, None]:
        """As the flight's."""
        return self.flight.pieces(self._until)

    async def landed(self) -> Made:
        """As the flight's."""
        return await self.flight.landed(self._until)


def weight(piece: Chunk) -> int:
    """What a piece costs in bytes, about."""
    return sum(map(_weight, piece.choices))


def _weight(choice: ChunkChoice) -> int:
    delta, words = choice.delta, 600 + sys.getsizeof(choice.delta.content)
    if choice.logprobs is None and not delta.tool_calls and not delta.refusal:
        return words
    return words + OBJECTS * len(encode(choice))
