"""Which engines are loaded and which wait, decided from what is seen at one moment. Pure: no I/O, no clock.

A machine has a number of places. An engine that nobody uses makes room for one that is asked for, the least recently
used first. When all are in use, the one whose turn has lasted longest gives way: it is closed to new requests, finishes
those it has, and makes room. The turn of a busy engine lasts as long as loading took, so that at most half of the time
goes into swapping, but no longer than a minute, so that those who wait do not give up; requests that wait for one model
are all served in its turn. Within its turn an idle engine lingers a little, for those who send their next request when
they have read the last answer: who pauses for longer than that may find another engine in its place, every time.

An engine that has died and starts again holds its place for those who are with it; its turn goes on. When nobody is, it
makes room at once. Who was told to come back counts as waiting for a while: else the impatient would never be served.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

SHORTEST_TURN = 1.0  # seconds
LONGEST_TURN = 60.0  # well below the time for which a request waits for its engine
LINGER = 0.1  # of what loading takes
GRACE = 15.0  # seconds for which a loaded engine is kept for those who were told to come back

Whereabouts = Literal["out", "loading", "loaded", "restarting", "leaving"]


class Seat(Struct, frozen=True, kw_only=True):
    """An engine at this moment; all times are of one clock, in seconds.

    `busy` counts the requests that it works on, `waiting_since` is when the oldest of those that wait for it came.
    Those who were told to come back wait too, until `awaited_until`; `expected` says that they have not come yet.
    """

    name: str
    where: Whereabouts
    busy: int = 0
    expected: bool = False
    waiting_since: float | None = None
    awaited_until: float | None = None
    loaded_at: float = 0.0
    last_used: float = 0.0
    load_seconds: float = 0.0


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be done: engines to be loaded, those to be unloaded, those closed to new requests.

    `look_again` is when time alone will change the plan.
    """

    load: list[str]
    unload: list[str]
    close: list[str]
    look_again: float | None = None


def decide(seats: Sequence[Seat], *, places: int, now: float, idle_timeout: float | None = None) -> Plan:
    """What is to be done with `places` places for loaded engines. `idle_timeout` is in seconds."""
    waiting = sorted((seat for seat in seats if seat.where == "out" and seat.waiting_since is not None), key=_arrival)
    free = places - sum(seat.where != "out" for seat in seats)
    load = waiting[: max(0, free)]
    # Places that are about to be free are already somebody's.
    short = len(waiting) - len(load) - sum(seat.where == "leaving" for seat in seats)
    loaded = [seat for seat in seats if seat.where in ("loaded", "restarting")]
    idle = sorted(
        (seat for seat in loaded if not seat.busy and _kept_until(seat) <= now), key=lambda seat: seat.last_used
    )
    unload = idle[: max(0, short)]
    short -= len(unload)
    over = sorted((seat for seat in loaded if seat.busy and turn_ends(seat) <= now), key=lambda seat: seat.loaded_at)
    close = over[: max(0, short)]
    if idle_timeout is not None:
        unload += [seat for seat in idle if seat not in unload and seat.last_used + idle_timeout <= now]
    return Plan(
        load=[seat.name for seat in load],
        unload=[seat.name for seat in unload],
        close=[seat.name for seat in close],
        look_again=_next_change(seats, now, short=short - len(close), idle_timeout=idle_timeout),
    )


def turn_ends(seat: Seat) -> float:
    """When a loaded engine that is busy gives way to one that waits."""
    return seat.loaded_at + min(LONGEST_TURN, max(SHORTEST_TURN, seat.load_seconds))


def _kept_until(seat: Seat) -> float:
    """Until when an engine keeps its place though nobody uses it."""
    if seat.where == "restarting":
        return seat.last_used
    if seat.expected:
        return seat.loaded_at + GRACE
    return min(turn_ends(seat), seat.last_used + LINGER * seat.load_seconds)


def _arrival(seat: Seat) -> float:
    return seat.waiting_since or 0.0


def _next_change(seats: Sequence[Seat], now: float, *, short: int, idle_timeout: float | None) -> float | None:
    loaded = [seat for seat in seats if seat.where in ("loaded", "restarting")]
    times = [seat.awaited_until for seat in seats if seat.awaited_until is not None]
    if short > 0:
        times += [turn_ends(seat) if seat.busy else _kept_until(seat) for seat in loaded]
    if idle_timeout is not None:
        times += [max(seat.last_used + idle_timeout, _kept_until(seat)) for seat in loaded if not seat.busy]
    return min((time for time in times if time > now), default=None)
