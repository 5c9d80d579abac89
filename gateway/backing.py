"""The services that stand behind a process that answers requests: limits, kept answers, leases on making them, engines.

They are the same for all such processes. One process has them `Alone`, or with other gateways through Redis; a worker
has them from its owner.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self

from gateway import cache
from gateway.cache import Cache
from gateway.config import Config
from gateway.engine import Engine
from gateway.images.budget import Budget, Purpose
from gateway.images.shelf import Shelf
from gateway.leases import Leases
from gateway.machine import Machine
from gateway.quota import Books, LocalBooks
from gateway.redis import Link, RedisLeases
from gateway.shared_quota import SharedBooks
from gateway.usage import place
from gateway.usage.store import Store
from gateway.workers.messages import Gathered, Respond


class Siblings(Protocol):
    """All workers of one gateway, this one included, and their owner.

    `answers` holds, by the names of questions, what answers them here, in at most a mebibyte.
    """

    answers: dict[str, Respond]

    async def gather(self, name: str, about: bytes = b"") -> Gathered:
        """What all of them answer to the question of that name, within two seconds."""
        ...


class Backing(Protocol):
    """Use it as an async context manager, around whatever uses it; the engines are entered by themselves.

    `engines` are those of this machine, by name; `shelf` is where their pictures lie; `decoders` is how many processes
    may decode pictures at once, None for one for each processor, and `budgets` the memory that they share with those of
    other workers, None where there are none; `usage` is where it is kept what was used; `link` is
    the way to Redis, where it has one itself; `siblings` are all workers of this gateway, where there are several.
    """

    books: Books
    leases: Leases | None
    cache: Cache
    engines: Mapping[str, Engine]
    usage: Store
    shelf: Shelf
    decoders: int | None
    budgets: Mapping[Purpose, Budget] | None
    link: Link | None
    siblings: Siblings | None

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Alone:
    """All of it in this process, but for what Redis holds where there is one."""

    def __init__(self, config: Config) -> None:
        self.link = Link(config.cache.redis) if config.cache.redis is not None else None
        self.books: Books = SharedBooks(self.link) if self.link is not None else LocalBooks()
        self.leases: Leases | None = RedisLeases(self.link) if self.link is not None else None
        self.cache = cache.opened(config.cache, self.link)
        self.usage: Store = place.opened(config.usage, self.link)
        self.shelf = Shelf()
        self.decoders = None
        self.budgets = None
        self.siblings = None
        self._machine = Machine(config, self.shelf.folder)
        self.engines: Mapping[str, Engine] = self._machine.engines
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self.link is not None:
            await self._stack.enter_async_context(self.link)
        await self._stack.enter_async_context(self.books)
        await self._stack.enter_async_context(self._machine)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
