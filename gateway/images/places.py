"""Room for what goes on at once, shared out so that the slow leave some to the others.

What is slow holds its place, and its bytes, for long. So a team may hold no more of either than are left, and of places
for one domain an eighth of what it could still have, rounded up: who comes first gets many, and whoever comes finds
some, until there are dozens of slow domains at once. Where nobody needs a key there is no other team to leave some to.
Those who wait take turns, team by team, and within a team domain by domain.
"""

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

for_team: ContextVar[str] = ContextVar("for_team", default="")
"""The team for which a download goes on, and with it what the download needs, such as its host's addresses."""

K = TypeVar("K", bound=Hashable)

_PART = 8  # of what a team could still have, for one domain
_NATIONAL = re.compile(r"(ac|co|com|edu|go|gov|ne|net|or|org)\.[a-z]{2}")  # below which names are many owners'


class NoPlaceError(Exception):
    """There was no place for as long as one waits for one, or no room for more bytes."""


class Line:
    """Those who wait. Each team has a line for each domain; teams take turns, and so do the domains of a team.

    However many wait, to come, to leave and to be served costs the same: they come by the thousand.
    """

    def __init__(self) -> None:
        self._teams: OrderedDict[str, OrderedDict[str, OrderedDict[asyncio.Future[None], None]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(turns) for domains in self._teams.values() for turns in domains.values())

    def add(self, team: str, domain: str, turn: asyncio.Future[None]) -> None:
        """Whose turn it will be is at the end of the line."""
        self._teams.setdefault(team, OrderedDict()).setdefault(domain, OrderedDict())[turn] = None

    def remove(self, team: str, domain: str, turn: asyncio.Future[None]) -> None:
        """They wait no longer, if they still did."""
        domains = self._teams.get(team)
        if domains is None or domain not in domains:
            return
        domains[domain].pop(turn, None)
        if not domains[domain]:
            del domains[domain]
        if not domains:
            del self._teams[team]

    def domains(self) -> Iterator[tuple[str, Iterable[str]]]:
        """Each team that waits, with the domains for which it does, those first whose turn it is."""
        return ((team, domains.keys()) for team, domains in self._teams.items())

    def first(self, team: str, domain: str) -> asyncio.Future[None]:
        """Takes out who came first. All other domains of the team come before this one now, and all other teams."""
        turn = next(iter(self._teams[team][domain]))
        self._teams[team].move_to_end(domain)
        self._teams.move_to_end(team)
        self.remove(team, domain, turn)
        return turn


class Places:
    """Room for `total` at once. `left` says how much of it there still is."""

    def __init__(self, total: int) -> None:
        self.left = total
        self._teams: Counter[str] = Counter()
        self._domains: Counter[tuple[str, str]] = Counter()
        self._line = Line()

    @asynccontextmanager
    async def place(self, host: str, *, patience: float) -> AsyncIterator[None]:
        """A place for what is done with the host, in line behind those who wait and could have it as well.

        Raises:
            NoPlaceError: there was none within `patience` seconds.
        """
        team, domain = for_team.get(), domain_of(host)
        if self.fits(team, domain):  # then nobody waits who could have it
            self._take(team, domain)
        else:
            await self._turn(team, domain, patience)
        try:
            yield
        finally:
            self._give_back(team, domain)

    def fits(self, team: str, domain: str) -> bool:
        """Whether there is a place for the team's work on that domain."""
        room = self._room(team)
        return self._domains[team, domain] < -(-room // _PART)

    def _room(self, team: str) -> int:
        return _obtainable(team, self.left, self._teams[team])

    async def _turn(self, team: str, domain: str, patience: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.add(team, domain, turn)
        try:
            async with asyncio.timeout(patience):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            self._line.remove(team, domain, turn)
            if turn.done() and not turn.cancelled():
                self._give_back(team, domain)  # it came, and nobody is there to take it
            if isinstance(error, TimeoutError):
                raise NoPlaceError from None
            raise

    def _serve(self) -> None:
        """Gives places to all in line who may have one."""
        while served := self._next():
            turn = self._line.first(*served)
            if not turn.done():
                self._take(*served)
                turn.set_result(None)

    def _next(self) -> tuple[str, str] | None:
        for team, domains in self._line.domains():
            if self._room(team) > 0:  # of its domains those alone do not fit that have places already: there are few
                for domain in domains:
                    if self.fits(team, domain):
                        return team, domain
        return None

    def _take(self, team: str, domain: str) -> None:
        self.left -= 1
        self._teams[team] += 1
        self._domains[team, domain] += 1

    def _give_back(self, team: str, domain: str) -> None:
        self.left += 1
        _forget(self._teams, team)
        _forget(self._domains, (team, domain))
        self._serve()


def _forget(counts: Counter[K], key: K) -> None:
    """One less of what is counted, and nothing left of what is not there any more."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


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
