"""Who, of all gateways, makes an answer: a short lease in Redis, renewed for as long as it takes.

It saves work and guards nothing: when Redis is away, or a lease is lost, an answer is made twice. Whoever finds a lease
taken tries again until it is free. One whose holder has died ends by itself, and no waiting is longer than `LONGEST`.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.redis.link import Link
from gateway.shared import Unanswered

PREFIX = "altgate:lease:v2:"
LASTS = 5.0  # seconds: what a holder that dies costs the others at most
RENEW_EVERY = 1.5  # seconds
TRY_EVERY = 0.1  # seconds
PATIENCE = 1.0  # seconds: more than for a look, because what is lost without it is a generation
LONGEST = 300.0  # seconds

RENEW = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('pexpire', KEYS[1], ARGV[2])"
RELEASE = "return redis.call('get', KEYS[1]) == ARGV[1] and redis.call('del', KEYS[1])"


class RedisLeases:
    """Leases by name. What Redis was told before a lease was given back is done before the next gateway has it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """The lease of that name, once it can be had; nothing when Redis is away or the wait was long enough."""
        key, token = PREFIX + name, secrets.token_hex(8)
        renewing: asyncio.Task[None] | None = None
        try:
            if await self._wait(key, token):
                renewing = asyncio.create_task(self._renew(key, token))
            yield
        finally:
            if renewing is not None:
                renewing.cancel()
            # In any case: who leaves while asking for it may have got it all the same.
            self._link.tell(lambda redis: redis.eval(RELEASE, 1, key, token))

    async def _wait(self, key: str, token: str) -> bool:
        """Whether the lease is ours, once that is known."""
        gives_up = time.monotonic() + LONGEST
        with suppress(Unanswered):
            while time.monotonic() < gives_up:
                if await self._take(key, token):
                    return True
                await asyncio.sleep(TRY_EVERY * random.uniform(0.5, 1))  # noqa: S311 - no secret
        return False

    async def _take(self, key: str, token: str) -> bool:
        milliseconds = round(LASTS * 1000)
        return bool(
            await self._link.ask(lambda redis: redis.set(key, token, nx=True, px=milliseconds), patience=PATIENCE)
        )

    async def _renew(self, key: str, token: str) -> None:
        milliseconds = round(LASTS * 1000)
        while True:
            await asyncio.sleep(RENEW_EVERY)
            with suppress(Unanswered):
                await self._link.ask(lambda redis: redis.eval(RENEW, 1, key, token, milliseconds), patience=PATIENCE)
