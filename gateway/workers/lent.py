"""The services behind a worker: from its owner, and from Redis where there is one."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

from gateway.backing import Siblings
from gateway.cache import Cache
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.config import Config
from gateway.engine import Engine
from gateway.images.budget import Budget, Purpose
from gateway.images.pool import processors
from gateway.images.shelf import Shelf
from gateway.leases import Leases
from gateway.quota import Books
from gateway.redis import Link, RedisLeases
from gateway.redis.link import CONNECTIONS, TOGETHER
from gateway.shared_quota import SharedBooks
from gateway.usage import place
from gateway.usage.store import Store
from gateway.workers.cache import WorkerCache
from gateway.workers.contact import Contact
from gateway.workers.engine import LentEngine
from gateway.workers.memory import LentBudget
from gateway.workers.messages import Orders
from gateway.workers.share import own_memory
from gateway.workers.stores import OwnerBooks, OwnerLeases, OwnerStore


class Lent:
    """A `Backing`. `config` is the worker's own share of what is configured for all."""

    def __init__(self, contact: Contact, orders: Orders, config: Config) -> None:
        self._contact = contact
        self.siblings: Siblings | None = contact
        count, redis = config.server.workers, config.cache.redis
        memory = MemoryStore(max_bytes=config.cache.max_bytes)
        self.link = Link(redis, connections=max(TOGETHER + 1, CONNECTIONS // count)) if redis is not None else None
        if self.link is not None:
            self.books: Books = SharedBooks(self.link)
            self.leases: Leases | None = RedisLeases(self.link)
            shared: RedisStore | OwnerStore = RedisStore(self.link)
        else:
            self.books = OwnerBooks(contact)
            self.leases = OwnerLeases(contact)
            shared = OwnerStore(contact, max_bytes=orders.config.cache.max_bytes)
        self.cache: Cache = WorkerCache(contact, memory, shared, ttl=config.cache.ttl)
        self.usage: Store = place.opened(config.usage, self.link)  # any number of processes can write to it
        self.shelf = Shelf(Path(orders.pictures))
        own = own_memory(config)
        rest = config.images.max_decoded - count * own
        self.budgets: Mapping[Purpose, Budget] | None = {
            purpose: LentBudget(own, rest, contact, purpose) for purpose in get_args(Purpose)
        }
        self.decoders: int | None = max(1, processors() // count)
        self.engines: Mapping[str, Engine] = {
            name: LentEngine(
                name,
                socket,
                contact,
                cold_start_wait=config.engines.cold_start_wait,
                request_timeout=config.engines.request_timeout,
            )
            for name, socket in orders.sockets.items()
        }
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._contact.open()
        self._stack.callback(self._contact.close)
        if self.link is not None:
            await self._stack.enter_async_context(self.link)
        await self._stack.enter_async_context(self.books)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
