"""Answers kept: the key of a request, and the stores that hold answers by key.

A key covers everything that shapes an answer: whatever field a request or a model may get in future is in it, unless
`NOT_IN_KEY` says why it is not. Pictures stand in it by the digest of their bytes, so base64 and URL of one picture are
one.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
from msgspec import Struct

from gateway import __version__, wire
from gateway.catalogue import Model
from gateway.config import CacheConfig

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

VERSION = 1
NOT_IN_KEY = {
    "stream": "an answer is the same words, whole or streamed",
    "stream_options": "it says what the stream carries, not what the answer is",
    "model": "whatever alias was used, the model's source and options are in the key instead",
    "messages": "they are in the key with digests in the pictures' places",
    "aliases": "other names of one model",
    "licence": "for people",
    "description": "for people",
    "memory": "for people",
    "api_key_env": "it says who asks the other server, not what",
}

REDIS_PATIENCE = 0.05  # seconds: the most that a request may lose to a Redis that is gone
REDIS_PROBE_EVERY = 1.0  # seconds
MAX_CONNECTIONS = 16  # opening one costs a millisecond, and a burst must not spend its patience on it
MAX_WRITES_WAITING = 256
LAST_WRITES = 1.0  # seconds: what is queued may take that long when the store closes
MAX_VALUE = 2**20  # bytes


class Stored(Struct, frozen=True):
    """A complete answer. It names its own key, so that a store that mixes things up is found out."""

    version: int
    key: str
    choices: list[wire.Choice]
    usage: wire.Usage


def key(request: wire.ChatRequest, *, model: Model, digests: Sequence[str], prompt: str, pipeline: str) -> str:
    """The key of a request.

    Args:
        request: what the engine will be asked, in closed types.
        model: the model that will be asked. Its names are not in the key, its source and options are.
        digests: the pictures' digests, in order.
        prompt: the digest of the preset's file, empty without one.
        pipeline: names our own processing of pictures.
    """
    fields = {name: value for name, value in msgspec.to_builtins(request).items() if name not in NOT_IN_KEY}
    turns = msgspec.to_builtins(request.messages)
    pictures = iter(digests)
    for part in (part for turn in turns for part in turn.get("content", ()) if part["type"] == "image_url"):
        part["image_url"]["url"] = next(pictures)
    loaded = {name: value for name, value in msgspec.structs.asdict(model).items() if name not in NOT_IN_KEY}
    # JSON with sorted keys is typed and unambiguous: no two different requests have one text.
    text = msgspec.json.encode([VERSION, __version__, pipeline, prompt, loaded, turns, fields], order="deterministic")
    return hashlib.sha256(text).hexdigest()


class Store(Protocol):
    """Where answers are kept. A store never fails a request: what cannot be read is a miss."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def get(self, key: str) -> Stored | None:
        """The answer under a key, None when there is none that can be used."""
        ...

    def put(self, value: Stored) -> None:
        """Keeps an answer, without making anyone wait."""
        ...

    @property
    def description(self) -> str:
        """For people: what kind of cache this is."""
        ...


def open_store(config: CacheConfig) -> Store:
    """The store that the configuration asks for."""
    if config.redis is None:
        return MemoryStore(max_bytes=config.max_bytes, ttl=config.ttl)
    return RedisStore(config.redis, ttl=config.ttl)


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Stored).decode


def _read(data: bytes, key: str) -> Stored | None:
    """A stored value, unless it is garbage, of another version or another key's."""
    try:
        value = _decode(data)
    except msgspec.DecodeError:
        return None
    return value if value.version == VERSION and value.key == key else None


class MemoryStore:
    """The least recently used answers are dropped when their bytes exceed `max_bytes`. `ttl` is in seconds."""

    def __init__(self, *, max_bytes: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.clear()
        self.bytes = 0

    @property
    def description(self) -> str:
        """For people: what kind of cache this is."""
        return f"in memory, up to {self._max_bytes / 2**20:.0f} MiB"

    async def get(self, key: str) -> Stored | None:
        """The answer under a key, unless it is too old."""
        found = self._values.get(key)
        if found is None:
            return None
        expires, data = found
        if self._clock() >= expires:
            self._drop(key)
            return None
        self._values.move_to_end(key)
        return _read(data, key)

    def put(self, value: Stored) -> None:
        """Keeps an answer, dropping the least recently used ones to make room."""
        data = _encode(value)
        if _weight(value.key, data) > self._max_bytes:
            return
        if value.key in self._values:
            self._drop(value.key)
        self._values[value.key] = (self._clock() + self._ttl, data)
        self.bytes += _weight(value.key, data)
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        _, data = self._values.pop(key)
        self.bytes -= _weight(key, data)


def _weight(key: str, data: bytes) -> int:
    """What an entry costs in bytes, with an estimate for the dictionary's own bookkeeping."""
    return len(key) + len(data) + 300


class RedisStore:
    """Answers in Redis. One that is dead or hangs costs a request 50 ms once, and then nothing until it is back."""

    def __init__(self, url: str, *, ttl: float) -> None:
        self._url = url
        self._ttl = ttl
        self._down = False
        self._writes: asyncio.Queue[Stored] = asyncio.Queue(MAX_WRITES_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Redis | None = None

    async def __aenter__(self) -> Self:
        self._client = _connect(self._url)
        self._tasks = [asyncio.create_task(self._write_all()), asyncio.create_task(self._probe())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITES):
                await self.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):
            await self._redis.aclose()

    @property
    def description(self) -> str:
        """For people: what kind of cache this is. The URL may hold a password, so it is not in it."""
        return "Redis, which does not answer now" if self._down else "Redis"

    async def get(self, key: str) -> Stored | None:
        """The answer under a key. A Redis that fails or takes too long is a miss."""
        if self._down:
            return None
        data = await self._try(lambda redis: redis.get(_name(key)))
        return _read(data, key) if isinstance(data, bytes) else None

    def put(self, value: Stored) -> None:
        """Queues an answer to be written; when the queue is full, it is not kept."""
        if not self._down:
            with suppress(asyncio.QueueFull):
                self._writes.put_nowait(value)

    async def flush(self) -> None:
        """Returns when everything queued has been written or given up."""
        await self._writes.join()

    @property
    def waiting(self) -> int:
        """How many answers are queued to be written."""
        return self._writes.qsize()

    async def ping(self) -> bool:
        """Whether Redis answers."""
        return await self._try(lambda redis: redis.ping()) is not None

    @property
    def _redis(self) -> "Redis":
        if self._client is None:
            raise RuntimeError("the store is used outside its context")
        return self._client

    async def _try(self, command: Callable[["Redis"], Any]) -> Any:
        from redis.exceptions import RedisError, ResponseError  # noqa: PLC0415 - redis takes long to import and is not always wanted

        try:
            async with asyncio.timeout(REDIS_PATIENCE):
                answer = await command(self._redis)
        except ResponseError as error:
            log.warning("Redis refuses a command: %s", type(error).__name__)
            return None
        except (RedisError, OSError, TimeoutError) as error:
            if not self._down:
                log.warning("Redis does not answer (%s): going on without it", type(error).__name__)
            self._down = True
            return None
        if self._down:
            log.info("Redis answers again")
        self._down = False
        return answer

    async def _write_all(self) -> None:
        while True:
            await self._write(await self._writes.get())
            self._writes.task_done()

    async def _write(self, value: Stored) -> None:
        data = _encode(value)
        if not self._down and len(data) <= MAX_VALUE:
            milliseconds = max(1, round(self._ttl * 1000))
            await self._try(lambda redis: redis.set(_name(value.key), data, px=milliseconds))

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(REDIS_PROBE_EVERY)
            if self._down:
                await self.ping()


def _name(key: str) -> str:
    return f"altgate:{VERSION}:{key}"


def _connect(url: str) -> "Redis":
    """A client that fails fast and never retries: the store's own patience is the limit."""
    from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415 - see above
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    pool = BlockingConnectionPool.from_url(
        url,
        timeout=REDIS_PATIENCE,
        max_connections=MAX_CONNECTIONS,
        socket_timeout=REDIS_PATIENCE,
        socket_connect_timeout=REDIS_PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)
