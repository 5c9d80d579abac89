"""Mixed requests of several teams about many pictures, each of which says whether it was answered with its own."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import aiohttp

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.shared import ask
from tests.pictures import SCENES, data_url
from tests.services import Server

PICTURES = 60
AT_ONCE = 64
KEYS = section("ann", "k1") + section("bob", "k2")
CACHE_CONTROL = ["", "", "", "", "no-store", "no-cache", "max-age=1"]
OPTIONS: list[dict[str, object]] = [{}, {}, {}, {"seed": 1}, {"temperature": 1}, {"max_tokens": 50}]


async def mixed(
    session: aiohttp.ClientSession, servers: Sequence[Server], count: int, *, seed: int, leaving: float = 0.1
) -> Counter[str]:
    """How so many requests ended: "its own", "another's", or who left before the end, as that share of them wants."""
    dice, ends = random.Random(seed), Counter[str]()
    urls = [data_url(pictures.png(scene, 32)) for scene in SCENES[:PICTURES]]
    digests = [await _digest(session, servers[0], url) for url in urls]
    assert len(set(digests)) == PICTURES

    async def one(number: int) -> None:
        chosen = [dice.randrange(PICTURES) for _ in range(dice.choice([1, 1, 1, 2]))]
        words = f"words {number % 7}"
        headers = with_key(dice.choice(["k1", "k2"])) | {"cache-control": dice.choice(CACHE_CONTROL)}
        patience = dice.random() / 20 if dice.random() < leaving else 120.0
        parts = [{"image_url": {"url": urls[at]}} for at in chosen]
        fields = {"messages": [{"role": "user", "content": [*parts, {"text": words}]}], "stream": number % 2 == 0}
        try:
            async with asyncio.timeout(patience):
                told = await ask(session, dice.choice(servers), headers, **fields, **dice.choice(OPTIONS))
        except TimeoutError:
            ends["left"] += 1
            return
        own = " ".join([*(digests[at] for at in chosen), words])
        ends["its own" if (told.status, told.words) == (200, own) else "another's"] += 1
        ends[told.cache] += 1

    async def in_turn(numbers: "asyncio.Queue[int]") -> None:
        with suppress(asyncio.QueueEmpty):
            while True:
                await one(numbers.get_nowait())

    numbers: asyncio.Queue[int] = asyncio.Queue()
    for number in range(count):
        numbers.put_nowait(number)
    await asyncio.gather(*(in_turn(numbers) for _ in range(AT_ONCE)))
    return ends


async def _digest(session: aiohttp.ClientSession, server: Server, url: str) -> str:
    """The digest of what an engine gets of a picture."""
    fields = {"messages": [{"role": "user", "content": [{"image_url": {"url": url}}]}]}
    return (await ask(session, server, with_key("k1") | {"cache-control": "no-store"}, **fields)).words.split()[0]
