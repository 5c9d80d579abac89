"""The engines of this machine, with what they share: the folder of their sockets and the places to be loaded in."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from gateway import inventory
from gateway.catalogue import Model
from gateway.config import Config
from gateway.engine import Engine
from gateway.fleet import Fleet
from gateway.folder import Folder
from gateway.launch import command, environment
from gateway.local import LocalEngine

FOLDERS = "altgate-engines-"  # where the engines' sockets lie
LONGEST = 107  # bytes of the path of a Unix socket, on Linux


class Machine:
    """Use it as an async context manager, around `engines`, which are entered by themselves.

    `pictures` is the folder out of which engines may read pictures.

    Raises:
        ClickException: sockets cannot lie in the folder for temporary files.
    """

    def __init__(self, config: Config, pictures: Path) -> None:
        self._config = config
        self._pictures = pictures
        self._folder = Folder(Path(tempfile.gettempdir()), FOLDERS)
        self._fleet = Fleet(max_loaded=config.engines.max_loaded, idle_timeout=config.engines.idle_timeout)
        self.engines: Mapping[str, LocalEngine] = {
            model.name: self._engine(model, _socket(self._folder, number))
            for number, model in enumerate(config.models)
            if model.engine != "remote"
        }
        _ensure_short(len(config.models))

    async def __aenter__(self) -> Self:
        self._folder.__enter__()
        await self._fleet.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._fleet.__aexit__(kind, error, trace)
        self._folder.__exit__(kind, error, trace)

    def _engine(self, model: Model, socket: str) -> LocalEngine:
        config = self._config
        return LocalEngine(
            model.name,
            command(model, socket, max_pixels=config.images.max_pixels, pictures=str(self._pictures)),
            socket,
            fleet=self._fleet,
            environ=environment(config.models, os.environ),
            start_timeout=config.engines.start_timeout,
            cold_start_wait=config.engines.cold_start_wait,
            request_timeout=config.engines.request_timeout,
            sleeps=model.engine == "vllm" and model.args.get("enable-sleep-mode") is True,
            obstacle=partial(inventory.obstacle, model),
        )


def longest_socket(count: int) -> int:
    """The bytes of the longest path of so many engines' sockets; `LONGEST` are the most."""
    folder = Folder(Path(tempfile.gettempdir()), FOLDERS)
    return len(os.fsencode(_socket(folder, count - 1)))


def _socket(folder: Folder, number: int) -> str:
    return str(folder.path / f"{number}.sock")


def _ensure_short(count: int) -> None:
    longest = longest_socket(count)
    if longest > LONGEST:
        raise click.ClickException(
            f"The sockets of engines cannot lie in {tempfile.gettempdir()}: their paths would have {longest} bytes, "
            f"and {LONGEST} are the most. Set TMPDIR to a folder with a shorter path, such as /tmp."
        )


@asynccontextmanager
async def all_running(engines: Collection[Engine]) -> AsyncIterator[None]:
    """The engines, ended at the same time: one that takes its time does not hold up the others."""
    await asyncio.gather(*(engine.__aenter__() for engine in engines))
    try:
        yield
    finally:
        await asyncio.gather(*(engine.__aexit__(None, None, None) for engine in engines), return_exceptions=True)
