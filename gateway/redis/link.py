"""The way to Redis: one client, and the knowledge whether it answers, for all who ask it for something.

Redis is a help and never a need. One that is dead, hangs or is slow costs a request 50 ms once; from then on
nobody asks it, until it has answered a probe as fast as requests want it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

from gateway.redis import address
from gateway.redis.writer import Writer

log = logging.getLogger(__name__)

Command = Callable[[Any], Awaitable[Any]]
"""Asks a client of redis-py for something."""

PATIENCE = 0.04  # seconds: with the turns below, a request loses 50 ms to a Redis that is gone
TURNS = 10  # of the loop, which is more than a command takes, however long they are
TURN = 0.001  # seconds
CONNECTING = 2.0  # seconds: a connection in TLS, by way of a Sentinel, takes several ways there and back
CONNECTIONS = 16
UNHURRIED = 0.5  # seconds: for what nobody waits for
PROBE_EVERY = 1.0  # seconds
COMPLAIN_EVERY = 60.0  # seconds


class Unanswered(Exception):
    """Redis is away, took too long or refused. Whoever asked goes on without it."""


class Link:
    """Use it as an async context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._writer = Writer()
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._probing: asyncio.Task[None] | None = None
        self._complained: dict[str, float] = {}
        self.is_down = False

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(address.client(self._url))
        await self._warm_up()
        self._probing = asyncio.create_task(self._probe())
        await self._stack.enter_async_context(self._writer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        with suppress(Exception):  # whatever a dead Redis makes of being left
            await self._stack.aclose()

    async def ask(self, command: Command, *, patience: float | None = None) -> Any:
        """What Redis answers, within so many seconds; None is `PATIENCE`.

        Raises:
            Unanswered: it does not, or refuses; for one that is known to be away at once.
        """
        patience = PATIENCE if patience is None else patience
        try:
            async with asyncio.timeout(patience):
                await self._turns.acquire()
        except TimeoutError:
            raise Unanswered("too many ask at once") from None  # which says nothing of Redis
        try:
            if self.is_down:
                raise Unanswered("it is away")
            return await self._asked(command, patience)
        finally:
            self._turns.release()

    async def each(self, command: Callable[[Any], AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
        """What Redis answers one by one, in its own time, which says nothing of how it is.

        Raises:
            Unanswered: it breaks off.
        """
        from redis.exceptions import RedisClusterException, RedisError  # noqa: PLC0415 - see address.py

        try:
            async for answer in command(self._client):
                yield answer
        except (RedisError, RedisClusterException, OSError):
            raise Unanswered("it broke off") from None

    def tell(self, command: Command) -> None:
        """Queues a command that nobody waits for; while Redis is away, or when too many wait, it is dropped."""

        async def work() -> None:
            with suppress(Unanswered):
                await self.ask(command, patience=UNHURRIED)

        if not self.is_down:
            self._writer.put(work)

    async def told(self) -> None:
        """Returns when every command queued has been done or given up."""
        await self._writer.flush()

    async def ping(self) -> bool:
        """Whether Redis answers in time; from then on it is asked again, or not any more."""
        with suppress(Unanswered):
            await self._asked(_ping, PATIENCE)
        return not self.is_down

    async def _asked(self, command: Command, patience: float) -> Any:
        from redis.exceptions import RedisClusterException, RedisError, ResponseError  # noqa: PLC0415 - see address.py

        try:
            answer = await _within(patience, command(self._client))
        except ResponseError as error:
            self._complain(f"Redis refuses a command: {type(error).__name__}")
            raise Unanswered("it refuses") from None
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            self._set_down(f"Redis does not answer ({type(error).__name__}): going on without it")
            raise Unanswered("it does not answer") from None
        if self.is_down:
            log.info("Redis answers again")
        self.is_down = False
        return answer

    def _set_down(self, why: str) -> None:
        if not self.is_down:
            log.warning(why)
        self.is_down = True

    def _complain(self, words: str) -> None:
        """A Redis that is full refuses every answer: one line a minute says it as well."""
        now = time.monotonic()
        if self._complained.get(words, -COMPLAIN_EVERY) + COMPLAIN_EVERY <= now:
            self._complained[words] = now
            log.warning(words)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY)
            if self.is_down:
                await self._warm_up()

    async def _warm_up(self) -> None:
        """Opens the connections, so that no request spends its patience on that, and sees whether Redis is fast."""
        pings = (_within(CONNECTING, _ping(self._client)) for _ in range(CONNECTIONS))
        opened = await asyncio.gather(*pings, return_exceptions=True)
        failed = next((each for each in opened if isinstance(each, Exception)), None)
        if failed is None:
            await self.ping()
        else:
            self._set_down(f"Redis does not answer ({type(failed).__name__}): going on without it")


async def _ping(client: Any) -> Any:
    return await client.ping()


async def _within(seconds: float, work: Awaitable[Any]) -> Any:
    """The work's result, if there is one in time; otherwise the work is ended.

    Raises:
        TimeoutError: there is not.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(TURNS):  # a loop that was busy has not yet read what has long been there
            if task.done():
                break
            await asyncio.wait({task}, timeout=TURN)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
