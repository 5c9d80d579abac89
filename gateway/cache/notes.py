"""Notes of removals in Redis, for all gateways: an answer whose making began before one of them is not kept after it.

A removal is noted by Redis's clock, and told by how long ago it was, so that no gateway's clock matters.
"""

import time
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

import msgspec
from msgspec import Struct

from gateway.cache.key import VERSION
from gateway.cache.removals import MOST, REMEMBERED
from gateway.cache.selection import Selection
from gateway.redis import Link
from gateway.shared import Unanswered

NAME = f"altgate:removed:v{VERSION}"
SLACK = 1.0  # seconds: more than a question is on its way
PATIENCE = 1.0  # seconds
SECOND = 1_000_000  # microseconds

# When there are too many notes, the oldest become one that means all answers.
_NOTE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2] * 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
local spare = redis.call('ZCARD', KEYS[1]) - ARGV[3]
if spare > 0 then
  local last = redis.call('ZRANGE', KEYS[1], spare - 1, spare - 1, 'WITHSCORES')[2]
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, spare - 1)
  redis.call('ZADD', KEYS[1], last, '{}')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# Notes of late, each with how many microseconds ago it was made. An answer is written when there are none.
_SINCE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found = redis.call('ZRANGEBYSCORE', KEYS[1], now - ARGV[1], '+inf', 'WITHSCORES')
if #found == 0 and KEYS[2] then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) end
for i = 2, #found, 2 do found[i] = now - found[i] end
return found
"""

_decode = msgspec.json.Decoder(Selection).decode


class Writing(Struct, frozen=True):
    """An answer to be written: its key, its name in Redis, how many milliseconds it lives, and when its making began.

    The latter is by the monotonic clock. `lost` is called when it could not be written, `meant` when it has been
    removed, or may have been, since its making began.
    """

    key: str
    name: str
    data: bytes
    lives: int
    began: float
    lost: Callable[[], None]
    meant: Callable[[], None]


class Notes:
    """The notes in the Redis that the link leads to, and the writing that heeds them."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def add(self, selection: Selection) -> bool:
        """Notes that the answers that are meant are removed now; whether Redis took it."""
        arguments = (msgspec.json.encode(selection), round(REMEMBERED * 1000), MOST)
        try:
            await self._link.ask(lambda redis: redis.eval(_NOTE, 1, NAME, *arguments), patience=PATIENCE)
        except Unanswered:
            return False
        return True

    def write(self, writing: Writing) -> None:
        """Queues an answer to be written, unless a note means it."""
        if self._link.is_cluster:  # in which notes and answers lie on several nodes
            self._write_first(writing)
            return

        def unless_noted(redis: Any) -> Any:
            arguments = (_horizon(writing), writing.data, writing.lives)
            return redis.eval(_SINCE, 2, NAME, writing.name, *arguments)

        self._link.tell(unless_noted, size=len(writing.data), then=partial(self._heed_first, writing))

    def _heed_first(self, writing: Writing, notes: object) -> None:
        if isinstance(notes, Unanswered):
            writing.lost()
        elif _means(notes, writing):
            writing.meant()
        elif notes:  # others are meant by them
            self._write_first(writing)

    def _write_first(self, writing: Writing) -> None:
        """Writes it and looks at the notes afterwards, so that none is missed: for a moment it can be found."""
        write = methodcaller("set", writing.name, writing.data, px=writing.lives)
        self._link.tell(write, size=len(writing.data), then=partial(self._look, writing))

    def _look(self, writing: Writing, written: object) -> None:
        if isinstance(written, Unanswered):
            writing.lost()
            return
        since = lambda redis: redis.eval(_SINCE, 1, NAME, _horizon(writing))  # noqa: E731
        self._link.tell(since, then=partial(self._take_back, writing))

    def _take_back(self, writing: Writing, notes: object) -> None:
        if _means(notes, writing):
            writing.meant()
            self._link.tell(methodcaller("execute_command", "UNLINK", writing.name))


def _horizon(writing: Writing) -> int:
    """How far back notes are of interest, in microseconds; to be asked for at the moment of sending."""
    return round((time.monotonic() - writing.began + SLACK) * SECOND)


def _means(notes: object, writing: Writing) -> bool:
    """Whether one of the removals that Redis tells of may mean the answer; so too when it tells nothing."""
    if not isinstance(notes, list):
        return True
    now = time.monotonic()
    told = zip(notes[::2], notes[1::2], strict=True)
    return any(now - ago / SECOND >= writing.began and _holds(note, writing.key) for note, ago in told)


def _holds(note: bytes, key: str) -> bool:
    """Whether a removal means that answer; one that cannot be read means all."""
    try:
        return _decode(note).holds(key)
    except msgspec.DecodeError:
        return True
