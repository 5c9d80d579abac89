"""What a Redis in trouble costs a request: `python -m bench.redis_faults`.

One gateway, an engine elsewhere that answers at once, and a Redis behind a relay. Each request is a new one of a key
with limits, so it is charged and takes a place, looks for its answer, takes a lease, looks again, keeps the answer and
gives its place back. Added is what it takes more than the median with a Redis that is well.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from tests.flows.keys import section, with_key
from tests.flows.shared import Fake, ask, clients, echo, gateways
from tests.gateway.redis.faults import Way
from tests.gateway.redis.test_link import TROUBLES, order, saying
from tests.services import Redis, Server, running_redis

SAMPLES = 100
KEY = section("k", "k", "requests_per_minute = 1000000", "concurrent = 1000")
numbers = itertools.count()

Trouble = tuple[Callable[[Redis, Way], object], Callable[[Redis, Way], object]]
REFUSALS: dict[str, Trouble] = {
    "slow by 20 ms": (lambda _, way: setattr(way, "delay", 0.02), lambda _, way: setattr(way, "delay", 0.0)),
    "loading": saying(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "read-only": (
        lambda redis, _: order(redis, "replicaof", "127.0.0.1", "1"),
        lambda redis, _: order(redis, "replicaof", "no", "one"),
    ),
    "out of memory": (
        lambda redis, _: order(redis, "config", "set", "maxmemory", "1"),
        lambda redis, _: order(redis, "config", "set", "maxmemory", "0"),
    ),
}


def main() -> None:
    """Prints a line for each kind of trouble."""
    asyncio.run(_run())


async def _run() -> None:
    async with Fake().running() as engine, clients() as session:
        engine.always = echo(engine)
        with tempfile.TemporaryDirectory() as name, running_redis(Path(name)) as redis:
            async with Way(redis.path).open() as way:
                cache = f'redis = "{way.url}"'
                async with gateways(Path(name), engine, cache=cache, settings=KEY, patient=False) as (server,):
                    await _table(session, server, redis, way)


async def _table(session: aiohttp.ClientSession, server: Server, redis: Redis, way: Way) -> None:
    await _times(session, server)
    well = statistics.median(await _times(session, server))
    print(f"well              {well:6.1f} ms, the median of {SAMPLES}")
    for name, (begin, end) in (TROUBLES | REFUSALS).items():
        begin(redis, way)
        first, *later = await _times(session, server)
        end(redis, way)
        print(
            f"{name:17} {first - well:+6.1f} ms for the first, then {statistics.median(later) - well:+5.1f} ms in the "
            f"median and {max(later) - well:+6.1f} ms at most"
        )
        await asyncio.to_thread(_until_redis_answers, server)


def _until_redis_answers(server: Server) -> None:
    """Returns when the last that the gateway has said of Redis is not that it does not answer."""
    said = ["Redis does not"]
    while "Redis does not" in said[-1]:
        time.sleep(0.05)
        lines = server.log.read_text().splitlines()
        said = ["", *(line for line in lines if "Redis does not" in line or "Redis answers" in line)]


async def _times(session: aiohttp.ClientSession, server: Server) -> list[float]:
    """How long each of some new requests takes, in milliseconds, one after another."""
    times = []
    for _ in range(SAMPLES):
        words = f"request {next(numbers)}"
        started = time.perf_counter()
        told = await ask(session, server, with_key("k"), messages=[{"role": "user", "content": words}])
        times.append((time.perf_counter() - started) * 1000)
        assert (told.status, told.words) == (200, words)
    return times


if __name__ == "__main__":
    main()
