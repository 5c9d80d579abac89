"""Does any answer go to another's question? `python -m bench.crossing`: 100,000 mixed requests to two gateways.

Behind them are one Redis and an engine that answers with the digests of its pictures and the words around them. Two
teams ask about sixty pictures, whole and streamed, with and without caching; one in ten leaves in the middle, or as
many as `--leaving` says: `--count 8000 --leaving 0.6` is a storm of cancelled requests.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.flows import crossing
from tests.flows.shared import Fake, clients, echo, gateways
from tests.services import running_redis


def main() -> None:
    """Prints how the requests ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="requests (%(default)s)")
    parser.add_argument("--leaving", type=float, default=0.1, help="share of them that leaves early (%(default)s)")
    options = parser.parse_args()
    asyncio.run(_run(options.count, options.leaving))


async def _run(count: int, leaving: float) -> None:
    async with Fake().running() as engine, clients() as session:
        engine.always = echo(engine)
        with tempfile.TemporaryDirectory() as name, running_redis(Path(name)) as redis:
            # Smaller than what there is to keep, so that both levels are used.
            cache = f'redis = "{redis.url}"\nmax_bytes = "100KB"'
            async with gateways(Path(name), engine, 2, cache=cache, settings=crossing.KEYS) as servers:
                started = time.perf_counter()
                ends = await crossing.mixed(session, servers, count, seed=2, leaving=leaving)
                took = time.perf_counter() - started
    print(f"{count} requests in {took:.0f} s, {len(engine.requests)} generations")
    for end in ("its own", "another's", "left", "hit", "join", "miss", "bypass"):
        print(f"{end:10} {ends[end]:7}")


if __name__ == "__main__":
    main()
