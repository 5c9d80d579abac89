"""Room for what goes on at once, shared out so that the slow leave some to the others.

What is slow holds its place, and its bytes, for long. So a team may hold no more of either than are left, and of places
for one domain an eighth of what it could still have, rounded up: who comes first gets many, and whoever comes finds
some, until there are dozens of slow domains at once. Where nobody needs a key there is no other team to leave some to.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

for_team: ContextVar[str] = ContextVar("for_team", default="")
"""The team for which a download goes on, and with it what the download needs, such as its host's addresses."""

_PART = 8  # of what a team could still have, for one domain
_NATIONAL = re.compile(r"(ac|co|com|edu|go|gov|ne|net|or|org)\.[a-z]{2}")  # below which names are many owners'


class NoPlaceError(Exception):
    """There was no place for as long as one waits for one, or no room for more bytes."""


class Places:
    """Room for `total` at once. `left` says how much of it there still is."""

    def __init__(self, total: int) -> None:
        self.left = total
        self._teams: Counter[str] = Counter()
        self._domains: Counter[tuple[str, str]] = Counter()
        self._line: deque[tuple[str, str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, host: str, *, patience: float) -> AsyncIterator[None]:
        """A place for what is done with the host, in line behind those who wait and could have it as well.

        Raises:
            NoPlaceError: there was none within `patience` seconds.
        """
        team, domain = for_team.get(), domain_of(host)
        await self._taken(team, domain, patience)
        try:
            yield
        finally:
            self._give_back(team, domain)

    def fits(self, team: str, domain: str) -> bool:
        """Whether there is a place for the team's work on that domain."""
        room = _obtainable(team, self.left, self._teams[team])
        return self._domains[team, domain] < -(-room // _PART)

    async def _taken(self, team: str, domain: str, patience: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.append((team, domain, turn))
        self._serve()
        try:
            async with asyncio.timeout(patience):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self._give_back(team, domain)  # it came, and nobody is there to take it
            self._serve()
            if isinstance(error, TimeoutError):
                raise NoPlaceError from None
            raise

    def _serve(self) -> None:
        """Gives places to all in line who may have one."""
        waiting = [each for each in self._line if not (each[2].done() or self._is_given(*each))]
        self._line = deque(waiting)

    def _is_given(self, team: str, domain: str, turn: asyncio.Future[None]) -> bool:
        if not self.fits(team, domain):
            return False
        self.left -= 1
        self._teams[team] += 1
        self._domains[team, domain] += 1
        turn.set_result(None)
        return True

    def _give_back(self, team: str, domain: str) -> None:
        self.left += 1
        self._teams -= Counter([team])  # which forgets those that hold nothing any more
        self._domains -= Counter([(team, domain)])
        self._serve()


class Room:
    """Room for `total` bytes at once, for which nobody waits. `left` says how much of it there still is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._teams: Counter[str] = Counter()
        self.left = total

    @contextmanager
    def admitted(self) -> Iterator[Callable[[int], None]]:
        """What comes in pieces, given back at the end; to be called with the size of each, in bytes.

        Raises:
            NoPlaceError: the team has as much as it may have.
        """
        team, held = for_team.get(), 0

        def hold(size: int) -> None:
            nonlocal held
            others = self._total - self.left - held
            # What is alone always fits, else something large could be refused for ever.
            if others and size > _obtainable(team, self.left, self._teams[team]):
                raise NoPlaceError
            held += size
            self.left -= size
            self._teams[team] += size

        try:
            yield hold
        finally:
            self.left += held
            self._teams -= Counter({team: held})  # which forgets those that hold nothing any more


def _obtainable(team: str, left: int, held: int) -> int:
    """How much a team could still have of what is left; whatever it gets is not left any more, too."""
    return (left - held + 1) // 2 if team else left


def domain_of(host: str) -> str:
    """What a host's name ends with, where most names of one owner meet; an address is its own.

    In two labels, or three where the second last is what a country's registry gives names below, as in example.co.uk.
    """
    labels = host.removesuffix(".").split(".")
    if ":" in host or labels[-1].isdigit():
        return host
    two = ".".join(labels[-2:])
    return ".".join(labels[-3:]) if _NATIONAL.fullmatch(two) else two
