"""The parts that answer a request, built in order of dependence; shared by the server and the command line."""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from gateway import cache, inventory, prompts, routing
from gateway.captioning import Captioner
from gateway.catalogue import Model
from gateway.config import Config
from gateway.engine import Engine
from gateway.fleet import Fleet
from gateway.folder import Folder
from gateway.images import installed
from gateway.images.fetch import Fetcher
from gateway.images.ingest import Ingest
from gateway.launch import command, environment
from gateway.local import LocalEngine
from gateway.quota import LocalBooks
from gateway.redis import Leases, Link
from gateway.remote import RemoteEngine
from gateway.shared_quota import SharedBooks

log = logging.getLogger(__name__)

FOLDERS = "altgate-engines-"  # where the engines' sockets lie


class Parts:
    """Every part once, and the captioner that is made of them. They work inside `running`.

    `port` is where the gateway listens, None where it does not.
    """

    def __init__(self, config: Config, *, port: int | None = None) -> None:
        self._folder = Folder(Path(tempfile.gettempdir()), FOLDERS)
        self._link = Link(config.cache.redis) if config.cache.redis is not None else None
        self.books = SharedBooks(self._link) if self._link is not None else LocalBooks()
        for kind in installed.missing(config.images.formats):
            log.warning("'images.formats' names '%s', but its decoder is not installed: altgate[%s]", kind, kind)
        self._fetcher = Fetcher(config.images, own_port=port)
        self._ingest = Ingest(self._fetcher, config.images)
        self._fleet = Fleet(max_loaded=config.engines.max_loaded, idle_timeout=config.engines.idle_timeout)
        self._engines = {
            model.name: self._engine(model, str(self._folder.path / f"{number}.sock"), config)
            for number, model in enumerate(config.models)
        }
        self.captioner = Captioner(
            models=routing.table(config.models),
            presets=prompts.load(),
            ingest=self._ingest,
            engines=self._engines,
            cache=cache.opened(config.cache, self._link),
            leases=Leases(self._link) if self._link is not None else None,
            cold_start_wait=config.engines.cold_start_wait,
            share_across_teams=config.cache.share_across_teams,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Captioner]:
        """The captioner with all its parts running, and none of them when the context ends."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._folder)
            if self._link is not None:
                await stack.enter_async_context(self._link)
            await stack.enter_async_context(self.books)
            await stack.enter_async_context(self._fetcher)
            await stack.enter_async_context(self._ingest)
            await stack.enter_async_context(self._fleet)
            await stack.enter_async_context(_all_running(self._engines.values()))
            yield self.captioner

    def _engine(self, model: Model, socket: str, config: Config) -> Engine:
        if model.engine == "remote":
            return RemoteEngine(model, environ=os.environ, request_timeout=config.engines.request_timeout)
        return LocalEngine(
            model.name,
            command(model, socket, max_pixels=config.images.max_pixels, pictures=str(self._ingest.shelf.folder)),
            socket,
            fleet=self._fleet,
            environ=environment(config.models, os.environ),
            start_timeout=config.engines.start_timeout,
            cold_start_wait=config.engines.cold_start_wait,
            request_timeout=config.engines.request_timeout,
            sleeps=model.engine == "vllm" and model.args.get("enable-sleep-mode") is True,
            obstacle=partial(inventory.obstacle, model),
        )


@asynccontextmanager
async def _all_running(engines: Collection[Engine]) -> AsyncIterator[None]:
    """The engines, ended at the same time: one that takes its time does not hold up the others."""
    await asyncio.gather(*(engine.__aenter__() for engine in engines))
    try:
        yield
    finally:
        await asyncio.gather(*(engine.__aexit__(None, None, None) for engine in engines), return_exceptions=True)
