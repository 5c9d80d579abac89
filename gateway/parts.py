"""The parts that answer a request, built in order of dependence; shared by the server and the command line."""

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from gateway import prompts, routing
from gateway.backing import Alone, Backing
from gateway.captioning import Captioner
from gateway.config import Config
from gateway.engine import Engine
from gateway.images import installed
from gateway.images.fetch import Fetcher
from gateway.images.ingest import Ingest
from gateway.machine import all_running
from gateway.remote import RemoteEngine
from gateway.usage.ledger import Ledger

log = logging.getLogger(__name__)


class Parts:
    """Every part once, and the captioner that is made of them. They work inside `running`.

    `port` is where the gateway listens, None where it does not, and where then nobody counts what is used; `backing` is
    what stands behind it, where that is not its own.
    """

    def __init__(self, config: Config, *, port: int | None = None, backing: Backing | None = None) -> None:
        self.backing = backing or Alone(config)
        self.books = self.backing.books
        self._counts = port is not None
        self.ledger = Ledger(self.backing.usage, {model.name: model.price for model in config.models})
        for kind in installed.missing(config.images.formats):
            log.warning("'images.formats' names '%s', but its decoder is not installed: altgate[%s]", kind, kind)
        self._fetcher = Fetcher(config.images, own_port=port)
        self.ingest = Ingest(
            self._fetcher,
            config.images,
            workers=self.backing.decoders,
            shelf=self.backing.shelf,
            budgets=self.backing.budgets,
        )
        self._engines = _engines(config, self.backing.engines)
        self.captioner = Captioner(
            models=routing.table(config.models),
            presets=prompts.load(),
            ingest=self.ingest,
            engines=self._engines,
            cache=self.backing.cache,
            leases=self.backing.leases,
            cold_start_wait=config.engines.cold_start_wait,
            share_across_teams=config.cache.share_across_teams,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Captioner]:
        """The captioner with all its parts running, and none of them when the context ends."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.backing)
            if self._counts:
                await stack.enter_async_context(self.ledger)
            await stack.enter_async_context(self._fetcher)
            await stack.enter_async_context(self.ingest)
            await stack.enter_async_context(all_running(self._engines.values()))
            yield self.captioner


def _engines(config: Config, here: Mapping[str, Engine]) -> dict[str, Engine]:
    """The engines of all models, by name: those of this machine, and those elsewhere."""
    timeout = config.engines.request_timeout
    return {
        model.name: RemoteEngine(model, environ=os.environ, request_timeout=timeout)
        if model.engine == "remote"
        else here[model.name]
        for model in config.models
    }
