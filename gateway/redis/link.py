"""The way to Redis: one client, and the knowledge whether it answers, for all who ask it for something.

Redis is a help and never a need. One that is dead, hangs or is slow costs a request 50 ms once; from then on
nobody asks it, until it has answered a probe as fast as requests want it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from gateway.redis import address
from gateway.redis.batches import Batches, Command, Then
from gateway.redis.telling import Telling
from gateway.shared import Unanswered

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 0.04  # seconds: with the turns below, a request loses 50 ms to a Redis that is gone
TURNS = 10  # of the loop, which is more than a command takes, however long they are
TURN = 0.001  # seconds
CONNECTING = 2.0  # seconds: a connection in TLS, by way of a Sentinel, takes several ways there and back
CONNECTIONS = 16
TOGETHER = 2  # of them are for what goes together
BATCH = 64  # commands that somebody waits for: not so many that reading the answers takes long
UNHURRIED = 0.5  # seconds: for what nobody waits for
PROBE_EVERY = 1.0  # seconds
COMPLAIN_EVERY = 60.0  # seconds


class Link:
    """Use it as an async context manager. It has so many `connections` at most, three at least."""

    def __init__(self, url: str, *, connections: int = CONNECTIONS) -> None:
        self._url = url
        self._connections = connections
        self.is_cluster = address.read(url).kind == "cluster"
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._together = Batches(partial(self._sent, None), most=BATCH)
        self._telling = Telling(partial(self._sent, UNHURRIED))
        self._turns = asyncio.Semaphore(connections - TOGETHER)
        self._probing: asyncio.Task[None] | None = None
        self._complained: dict[str, float] = {}
        self.is_down = False

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(address.client(self._url))
        await self._warm_up()
        self._probing = asyncio.create_task(self._probe())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await asyncio.gather(self._telling.close(), self._together.close())
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

    async def ask_all(self, commands: Sequence[Command], *, patience: float) -> list[Any]:
        """What Redis answers to commands that go to it together: an `Unanswered` in the place of what it refuses.

        Raises:
            Unanswered: it does not answer within so many seconds.
        """
        return self._each_of(await self.ask(partial(_piped, commands), patience=patience))

    async def ask_together(self, command: Command) -> Any:
        """What Redis answers to a command that goes with others which are asked at the same time, in order.

        However many there are, they do not wait for one another's answers to be sent.

        Raises:
            Unanswered: it does not, or refuses.
        """
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._together.put(command, lambda answer: None if answered.done() else answered.set_result(answer))
        answer = await answered
        if isinstance(answer, Unanswered):
            raise answer
        return answer

    async def each(self, command: Callable[[Any], AsyncIterator[T]]) -> AsyncIterator[T]:
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

    def tell(self, command: Command, *, size: int | None = None, then: Then = lambda _: None) -> None:
        """Queues a command that nobody waits for; `then` is called with what comes of it.

        One that says its size, in bytes, may be dropped when too many wait, and the log says so. What is queued goes in
        order.
        """
        if self.is_down:
            then(Unanswered("it is away"))
        else:
            self._telling.put(command, then, size=size)

    async def told(self) -> None:
        """Returns when every command queued, and what that has led to, has been done or given up."""
        await self._telling.done()

    async def ping(self) -> bool:
        """Whether Redis answers in time; from then on it is asked again, or not any more."""
        with suppress(Unanswered):
            await self._asked(_ping, PATIENCE)
            if self.is_down:
                log.info("Redis answers again")
            self.is_down = False
        return not self.is_down

    async def _sent(self, patience: float | None, commands: Sequence[Command]) -> Sequence[Any]:
        """What came of commands that go together."""
        if self.is_down:
            return [Unanswered("it is away")] * len(commands)
        try:
            answers = await self._asked(partial(_piped, commands), PATIENCE if patience is None else patience)
        except Unanswered as error:
            return [error] * len(commands)
        return self._each_of(answers)

    def _each_of(self, answers: Sequence[Any]) -> list[Any]:
        """Answers that came together, with an `Unanswered` for each that is an error."""
        return [self._refused(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def _asked(self, command: Command, patience: float) -> Any:
        """What Redis answers; that it does says nothing of whether it is fast enough for requests."""
        from redis.exceptions import RedisClusterException, RedisError  # noqa: PLC0415 - see address.py

        try:
            return await _within(patience, command(self._client))
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise self._refused(error) from None
        except Exception as error:  # noqa: BLE001 - whoever sends for others has to go on
            self._complain(f"a command to Redis failed: {type(error).__name__}", error)
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> Unanswered:
        """What an error of Redis or of the way to it means: one command that is refused, or all that come."""
        from redis.exceptions import ResponseError  # noqa: PLC0415 - see address.py

        if isinstance(error, ResponseError):
            self._complain(f"Redis refuses a command: {type(error).__name__}")
            return Unanswered("it refuses")
        self._set_down(f"Redis does not answer ({type(error).__name__}): going on without it")
        return Unanswered("it does not answer")

    def _set_down(self, why: str) -> None:
        if not self.is_down:
            log.warning(why)
        self.is_down = True

    def _complain(self, words: str, error: Exception | None = None) -> None:
        """A Redis that is full refuses every answer: one line a minute says it as well."""
        now = time.monotonic()
        if self._complained.get(words, -COMPLAIN_EVERY) + COMPLAIN_EVERY <= now:
            self._complained[words] = now
            log.warning(words, exc_info=error)

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY)
            if self.is_down:
                await self._warm_up()

    async def _warm_up(self) -> None:
        """Opens the connections, so that no request spends its patience on that, and sees whether Redis is fast."""
        pings = (_within(CONNECTING, _ping(self._client)) for _ in range(self._connections))
        opened = await asyncio.gather(*pings, return_exceptions=True)
        failed = next((each for each in opened if isinstance(each, Exception)), None)
        if failed is None:
            await self.ping()
        else:
            self._set_down(f"Redis does not answer ({type(failed).__name__}): going on without it")


async def _ping(client: Any) -> Any:
    return await client.ping()


async def _piped(commands: Sequence[Command], client: Any) -> Any:
    """What came of each of the commands, errors too; in order on each node that they go to."""
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            command(pipeline)
        return await pipeline.execute(raise_on_error=False)


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
