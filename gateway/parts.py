"""The parts that answer a request, built in order of dependence; shared by the server and the command line."""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from gateway import prompts, routing
from gateway.cache import open_store
from gateway.captioning import Captioner
from gateway.config import Config, EnginesConfig, Model
from gateway.engine import LocalEngine
from gateway.images.fetch import Fetcher
from gateway.images.ingest import Ingest


class Parts:
    """Every part once, and the captioner that is made of them. They work inside `running`."""

    def __init__(self, config: Config) -> None:
        self._folder = Path(tempfile.gettempdir()) / f"altgate-{secrets.token_hex(8)}"
        self._store = open_store(config.cache)
        self._fetcher = Fetcher(config.images)
        self._ingest = Ingest(self._fetcher, config.images)
        self._engines = {
            model.name: _engine(model, str(self._folder / f"{number}.sock"), config.engines)
            for number, model in enumerate(config.models)
        }
        self.captioner = Captioner(
            models=routing.table(config.models),
            presets=prompts.load(),
            ingest=self._ingest,
            engines=self._engines,
            store=self._store,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Captioner]:
        """The captioner with all its parts running, and none of them when the context ends."""
        async with AsyncExitStack() as stack:
            self._folder.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            await stack.enter_async_context(self._store)
            await stack.enter_async_context(self._fetcher)
            await stack.enter_async_context(self._ingest)
            for engine in self._engines.values():
                await stack.enter_async_context(engine)
            yield self.captioner


def _engine(model: Model, socket: str, config: EnginesConfig) -> LocalEngine:
    return LocalEngine(
        model.name,
        _command(model, socket),
        socket,
        environ=_environ(os.environ),
        start_timeout=config.start_timeout,
        cold_start_wait=config.cold_start_wait,
        request_timeout=config.request_timeout,
    )


def _command(model: Model, socket: str) -> list[str]:
    """How an engine of any kind is started: its module, the model's section and the socket's path."""
    given = {key: value for key, value in model.args.items() if value is not False}
    options = [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
    return [
        sys.executable,
        "-m",
        f"engines.{model.engine}",
        f"--model={model.name}",
        f"--source={model.source}",
        f"--revision={model.revision}",
        f"--uds={socket}",
        "--exit-on-stdin-eof",
        *options,
    ]


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The gateway's environment without the gateway's own settings, which may hold secrets."""
    kept = {name: value for name, value in environ.items() if not name.startswith("ALTGATE_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}
