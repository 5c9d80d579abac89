"""What a key has used of its limits, in Redis, so that several gateways keep to one limit together.

While Redis is away each gateway keeps its own books: a key may then use its limits once in each of them. What Redis
said last is written in them, so nobody starts anew.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from gateway.auth import Caller
from gateway.bucket import Bucket
from gateway.quota import LocalBooks, Outcome, Reason, Wanted, none_refused
from gateway.redis import Link
from gateway.shared import Unanswered

LEASE = 30.0  # seconds: a gateway that was killed keeps its places for so long
RENEW_EVERY = 10.0  # seconds
TIDY_EVERY = 1.0  # seconds
MICROSECONDS = 1_000_000

# By Redis's own clock, so that no gateway's matters. What is no time within a minute means nothing, as in bucket.py.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost = {tonumber(ARGV[1]), tonumber(ARGV[3])}
local depth = {tonumber(ARGV[2]), tonumber(ARGV[4])}
local place, most, lease = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local debt, refused = {}, 0
for i = 2, 1, -1 do
  local full = depth[i] > 0 and tonumber(redis.call('GET', KEYS[i])) or now
  debt[i] = full - now
  if not (debt[i] > 0 and debt[i] <= 60000000) then debt[i] = 0 end
  debt[i] = math.min(debt[i], depth[i])
  if debt[i] + cost[i] > depth[i] then refused = i end
end
if place ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  if redis.call('ZCARD', KEYS[3]) >= most then refused = 3 end
end
if refused == 0 then
  for i = 1, 2 do
    if cost[i] > 0 then
      debt[i] = debt[i] + cost[i]
      redis.call('SET', KEYS[i], string.format('%.0f', now + debt[i]), 'PX', math.ceil(debt[i] / 1000))
    end
  end
  if place ~= '' then
    redis.call('ZADD', KEYS[3], now + lease, place)
    redis.call('PEXPIRE', KEYS[3], math.ceil(lease / 1000))
  end
end
return {refused, debt[1], debt[2]}
"""
_GIVE_BACK = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for i = 1, 2 do
  local cost, full = tonumber(ARGV[i]), tonumber(ARGV[i]) > 0 and tonumber(redis.call('GET', KEYS[i]))
  if full and full - now <= 60000000 then
    full = full - cost
    if full > now then
      redis.call('SET', KEYS[i], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
    else
      redis.call('DEL', KEYS[i])
    end
  end
end
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[3], ARGV[3]) end
"""
_RENEW = """
local time = redis.call('TIME')
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], time[1] * 1000000 + time[2] + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] / 1000))
"""
_REFUSED: tuple[Reason | None, ...] = (None, "requests", "pictures", "concurrent")


class SharedBooks:
    """The books of all gateways with one Redis, and those of this process for when it is away."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.refused = none_refused()
        self._local = LocalBooks()
        self._left: deque[tuple[float, str, str]] = deque()  # places that Redis may still hold, and until when
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._renew()), asyncio.create_task(self._tidy())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def take(self, caller: Caller, wanted: Wanted) -> Outcome:
        """Takes all that is wanted, or nothing.

        What is written here is what this gateway took itself and what Redis said: where that refuses, Redis would too.
        """
        outcome = self._local.outcome(caller, wanted)
        if outcome.refused is not None:
            return outcome
        requests, pictures = _full(caller.requests_per_minute), _full(caller.pictures_per_minute)
        arguments = [
            *_cost(requests, wanted.requests),
            *_cost(pictures, wanted.pictures),
            wanted.place or "",
            caller.concurrent or 0,
            round(LEASE * MICROSECONDS),
        ]
        try:
            answer = await self._link.ask_together(lambda redis: redis.eval(_TAKE, 3, *_names(caller), *arguments))
            refused, *debts = answer
            outcome = Outcome(_owing(requests, debts[0]), _owing(pictures, debts[1]), _REFUSED[refused])
        except (Unanswered, TypeError, ValueError, LookupError):  # of the last three, what is no answer of our script
            return await self._local.take(caller, wanted)
        self._local.note(caller, wanted, outcome)
        return outcome

    async def give_back(self, caller: Caller, taken: Wanted) -> None:
        """Gives back what was taken. Of a place Redis learns later, or its lease ends it; the rest fills up again."""
        await self._local.give_back(caller, taken)
        arguments = [
            _cost(_full(caller.requests_per_minute), taken.requests)[0],
            _cost(_full(caller.pictures_per_minute), taken.pictures)[0],
            taken.place or "",
        ]
        try:
            await self._link.ask_together(lambda redis: redis.eval(_GIVE_BACK, 3, *_names(caller), *arguments))
        except Unanswered:
            self._note_left(_places(caller.key_id), [] if taken.place is None else [taken.place])

    async def _remove(self, name: str, places: Sequence[str]) -> None:
        try:
            await self._link.ask_together(lambda redis: redis.zrem(name, *places))
        except Unanswered:
            self._note_left(name, places)

    def _note_left(self, name: str, places: Sequence[str]) -> None:
        ends = time.monotonic() + LEASE
        self._left.extend((ends, name, place) for place in places)

    async def _tidy(self) -> None:
        """Gives back what Redis could not be told of at the time, unless its lease has ended by itself."""
        while True:
            await asyncio.sleep(TIDY_EVERY)
            while self._left and self._left[0][0] <= time.monotonic():
                self._left.popleft()
            if not self._link.is_down:
                for _ in range(len(self._left)):
                    _, name, place = self._left.popleft()
                    await self._remove(name, [place])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            for key_id, places in self._local.under_way().items():
                await self._renew_all(key_id, places)

    async def _renew_all(self, key_id: str, places: frozenset[str]) -> None:
        name = _places(key_id)
        try:
            await self._link.ask(lambda redis: redis.eval(_RENEW, 1, name, round(LEASE * MICROSECONDS), *places))
        except Unanswered:
            return
        if gone := places - self._local.under_way().get(key_id, frozenset()):  # given back meanwhile
            await self._remove(name, [*gone])


def _names(caller: Caller) -> tuple[str, str, str]:
    stem = _stem(caller.key_id)
    return f"{stem}:requests", f"{stem}:pictures", _places(caller.key_id)


def _places(key_id: str) -> str:
    return f"{_stem(key_id)}:places"


def _stem(key_id: str) -> str:
    return f"altgate:limit:{{{key_id}}}"  # in a cluster, what stands in braces keeps names together on one node


def _full(limit: int | None) -> Bucket | None:
    return None if limit is None else Bucket(limit)


def _cost(full: Bucket | None, count: int) -> tuple[int, int]:
    return (0, 0) if full is None else (count * full.interval, full.depth)


def _owing(full: Bucket | None, debt: Any) -> Bucket | None:
    return None if full is None else Bucket(full.limit, int(debt))
