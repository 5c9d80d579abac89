"""How long does it take to remove answers from a large store? `python -m bench.cache_removal`: 200,000 of ours among
as many keys that are not.

The answers are of 20 teams and 5 models, about 100,000 pictures; each has about 1 KB. They are written as gateways
write them, and removed by picture, by model, by team, and looked through; after each it is checked that what was meant
has gone and nothing else has.
"""

import argparse
import asyncio
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis as redis_py

from gateway.cache import Selection
from gateway.cache.redis import RedisStore, name
from gateway.cache.stored import encode
from gateway.redis import Link
from gateway.wire import Amount
from tests.gateway.cache.answers import named, stored
from tests.services import Redis, running_redis

TEAMS, MODELS, A_PICTURE = 20, 5, 2  # of them; answers about each picture
AT_ONCE = 1_000
PAUSE = 0.002  # seconds


def main() -> None:
    """Prints a line for each kind of removal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=200_000, help="%(default)s")
    parser.add_argument("--others", type=int, default=200_000, help="keys that are not ours (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder)) as server:
        with redis_py.Redis(unix_socket_path=str(server.path)) as client:
            _fill(client, options.answers, options.others)
        asyncio.run(_measure(server, options.answers))


def _fill(client: "redis_py.Redis", answers: int, others: int) -> None:
    for first in range(0, answers, AT_ONCE):
        pipeline = client.pipeline(transaction=False)
        for number in range(first, min(first + AT_ONCE, answers)):
            value = stored(_key(number), "word " * 150)
            pipeline.set(name(value.key), encode(value), px=3_600_000)
        pipeline.execute()
    for first in range(0, others, AT_ONCE):
        client.mset({f"theirs:{number}": "x" for number in range(first, first + AT_ONCE)})


def _key(number: int) -> str:
    picture = hashlib.sha256(str(number // A_PICTURE).encode()).hexdigest()[:32]
    digest = hashlib.sha256(f"answer {number}".encode()).hexdigest()
    return named(digest, picture, scope=f"team-{number % TEAMS}", model=f"model-{number % MODELS}")


async def _measure(server: Redis, answers: int) -> None:
    with redis_py.Redis(unix_socket_path=str(server.path)) as client:
        async with Link(server.url) as link:
            store = RedisStore(link)
            picture = hashlib.sha256(str(answers // 4).encode()).hexdigest()
            await _line("counted", client, store.count)
            await _line("one picture", client, lambda: store.remove(Selection(digest=picture)))
            await _line("one team", client, lambda: store.remove(Selection(scope="team-3")))
            await _line("one model", client, lambda: store.remove(Selection(model="model-1")))
            await _line("no model", client, lambda: store.remove(Selection(model="none")))
            await _line("all the rest", client, lambda: store.remove(Selection()))


async def _line(what: str, client: "redis_py.Redis", work: Callable[[], Awaitable[Amount]]) -> None:
    longest, before = 0.0, _size(client)

    async def watch() -> None:
        nonlocal longest
        while True:
            started = time.perf_counter()
            await asyncio.sleep(PAUSE)
            longest = max(longest, time.perf_counter() - started - PAUSE)

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    amount = await work()
    took = time.perf_counter() - started
    watching.cancel()
    gone = before - _size(client)
    assert gone == (0 if what == "counted" else amount.entries), (gone, amount)
    told = "complete" if amount.complete else "NOT COMPLETE"
    print(f"{what:13} {amount.entries:7} answers, {amount.bytes / 2**20:6.1f} MiB, {told}: {took:6.2f} s", end="")
    print(f"; the loop was held for {longest * 1000:.0f} ms at most")


def _size(client: Any) -> int:
    """All keys but the note of what was removed."""
    return int(client.dbsize()) - int(client.exists("altgate:removed:v3"))


if __name__ == "__main__":
    main()
