"""What the owner has, one for all workers: engines, limits, leases, kept answers, and its own answers to questions."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import get_args

from gateway.cache.memory import MemoryStore
from gateway.config import Config
from gateway.engine import Status
from gateway.folder import Folder
from gateway.images.budget import Budget, Purpose
from gateway.images.shelf import MEMORY, PREFIX
from gateway.leases import LocalLeases
from gateway.machine import Machine, all_running
from gateway.metrics import METRICS, declared
from gateway.metrics.counts import Sample, decode, encode, lasting, merged, one
from gateway.metrics.engines import engine_readings
from gateway.metrics.process import process_readings
from gateway.quota import LocalBooks
from gateway.workers.messages import Respond
from gateway.workers.share import own_memory


class House:
    """Its engines run inside `running`. `pictures` is the folder in which the workers' own for pictures lie."""

    def __init__(self, config: Config, root: Path = MEMORY) -> None:
        self._folder = Folder(root, PREFIX)
        self.pictures = self._folder.path
        self._machine = Machine(config, self.pictures)
        self.engines = self._machine.engines
        self.books = LocalBooks()
        self.leases = LocalLeases()
        self.store = MemoryStore(max_bytes=config.cache.max_bytes // 2)  # the other half is for the workers' copies
        lent = config.images.max_decoded - config.server.workers * own_memory(config)
        self.memory: Mapping[Purpose, Budget] = {purpose: Budget(lent) for purpose in get_args(Purpose)}
        self.answers: dict[str, Respond] = {METRICS: self._metrics}
        self._inherited: list[Sample] = []

    def statuses(self) -> dict[str, Status]:
        """What each engine is doing."""
        return {name: engine.status for name, engine in self.engines.items()}

    def on_news(self, tell: Callable[[], None]) -> None:
        """Has `tell` called whenever one of the statuses may have changed."""
        for engine in self.engines.values():
            engine.process.on_news = tell

    def inherit(self, metrics: bytes) -> None:
        """Keeps what a worker had counted that is no more: else the sums of all would go back."""
        self._inherited = merged([self._inherited, lasting(decode(metrics))])

    async def _metrics(self, _: bytes) -> bytes:
        """How its engines stand, what it keeps and has inherited, and itself; all else is the workers' to say."""
        kept = self.store.amount
        own = [one(declared.CACHE_BYTES, kept.bytes), one(declared.CACHE_ENTRIES, kept.entries), *process_readings()]
        lent = ((declared.DECODE_BYTES, self.memory["decoding"]), (declared.DECODED_BYTES, self.memory["decoded"]))
        own += [one(metric, budget.size - budget.free) for metric, budget in lent]
        engines = (engine_readings(name, engine) for name, engine in self.engines.items())
        return encode([*self._inherited, *own, *chain.from_iterable(engines)])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engines can be used, and have ended when the context ends."""
        with ExitStack() as stack:
            with suppress(OSError):  # where there is no memory for files, pictures travel inside the requests
                stack.enter_context(self._folder)
            async with self._machine, all_running(self.engines.values()):
                yield
