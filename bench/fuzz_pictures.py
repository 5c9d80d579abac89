"""Spoils data URLs, headers and whole pictures at random: `python -m bench.fuzz_pictures --rounds 1000000`.

The tests do ten thousand rounds with one seed; this does as many as wanted with any. It ends at the first exception
that is none of ours, and prints the seed and the round that bring it back. A worker that dies, or a picture that
takes longer than it may, is counted as well: it costs one request and no more, and says that a decoder has a flaw.
"""

import argparse
import asyncio
import base64
import random
import time
from collections import Counter

from gateway.config import ImagesConfig
from gateway.errors import GatewayError, PictureError
from gateway.images import data_url, header
from gateway.images.header import HeaderError
from gateway.images.ingest import Ingest
from gateway.images.plan import Sizing
from gateway.images.pool import NotDecoded
from gateway.images.sniff import FORMATS
from tests.gateway.images import made
from tests.gateway.images.ingests import NoSource
from tests.gateway.images.test_data_url import odd
from tests.gateway.images.test_header import spoilt

DECODED_EVERY = 20  # rounds: decoding takes a thousand times as long as reading a header


def main() -> None:
    """Prints how often what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="(the clock's)")
    options = parser.parse_args()
    began = time.monotonic()
    for outcome, count in sorted(asyncio.run(fuzzed(options.seed, options.rounds)).items()):
        print(f"{count:9}  {outcome}")
    print(f"{options.rounds} rounds of seed {options.seed} in {time.monotonic() - began:.0f} s")


async def fuzzed(seed: int, rounds: int) -> Counter[str]:
    """How often what came of it."""
    outcomes: Counter[str] = Counter()
    config = ImagesConfig(formats=made.WRITABLE)
    async with Ingest(NoSource(), config) as ingest:
        for number in range(rounds):
            draw = random.Random(f"{seed} {number}")
            try:
                outcomes[f"data URL: {of_data_url(odd(draw))}"] += 1
                data = spoilt(made.PICTURES[draw.choice(made.WRITABLE)], draw)
                outcomes[f"header: {of_header(data)}"] += 1
                if number % DECODED_EVERY == 0:
                    outcomes[f"picture: {await of_picture(ingest, data)}"] += 1
            except BaseException:
                print(f"seed {seed}, round {number}")
                raise
    return outcomes


def of_data_url(text: str) -> str:
    """What reading a data URL gives."""
    try:
        data_url.decode(text, param="url", max_bytes=600, formats=FORMATS)
    except PictureError as error:
        return str(error.code)
    return "read"


def of_header(data: bytes) -> str:
    """What reading a header gives."""
    try:
        header.read(data)
    except HeaderError as error:
        return str(error)
    return "read"


async def of_picture(ingest: Ingest, data: bytes) -> str:
    """What decoding gives."""
    try:
        picture = await ingest.load(f"data:;base64,{base64.b64encode(data).decode()}", param="url")
        await ingest.hand_over(picture, Sizing("square", 64), ingest.lease(here=False), param="url")
    except GatewayError as error:
        cause = error.__cause__
        return f"{error.code} ({cause.reason})" if isinstance(cause, NotDecoded) else str(error.code)
    return "decoded"


if __name__ == "__main__":
    main()
