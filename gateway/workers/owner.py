"""The owner: the process that was started. It has what is one for all workers, engines included, and runs them."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterable

import click
import msgspec
import uvloop

from gateway import banner
from gateway.auth import Key
from gateway.config import Config
from gateway.listener import bound
from gateway.reload import KeyFile
from gateway.workers import messages
from gateway.workers.crew import Crew, StartFailed
from gateway.workers.door import Door
from gateway.workers.house import House

log = logging.getLogger(__name__)

LAST_PATIENCE = 5.0  # seconds beyond `server.shutdown_timeout` that a worker may take to put its things away


def run(config: Config, key_file: KeyFile) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP; then the workers finish what is under way within its limit."""
    owner = Owner(config, bound(config.server.host, config.server.port))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        well = runner.run(owner.serve(key_file))
    if not well:
        sys.exit(1)


class Owner:
    """What all workers have in common, and they themselves."""

    def __init__(self, config: Config, listener: socket.socket) -> None:
        self._config = config
        self._keys = config.keys
        self._port: int = listener.getsockname()[1]
        self._has_news = False
        self._stopped = asyncio.Event()
        self.house = House(config)
        self.crew = Crew(config.server.workers, self.house, self._orders)
        self._door = Door(listener, self.crew.give)

    async def serve(self, key_file: KeyFile) -> bool:
        """Runs until a signal; whether all workers had started."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number)
        self.house.on_news(self._news)
        async with self.house.running(), key_file.watched(self):
            working = asyncio.create_task(self.crew.run())
            try:
                await _first(working, self.crew.whole, self._stopped)
                if self.crew.whole.is_set():
                    self._door.open()
                    click.echo(banner.text(self._config, next(self.crew.caches), self._port))
                    await _first(working, self._stopped)
            finally:
                well = await self._end(working)
        return well

    def replace(self, keys: Iterable[Key]) -> bool:
        """From now on these keys hold, for all workers; whether that changes anything."""
        before, self._keys = self._keys, tuple(keys)
        if self._keys == before:
            return False
        if self._keys:  # else those of before: who was asked for a key is not let in without one
            self._config = msgspec.structs.replace(self._config, keys=self._keys)
        self.crew.tell(messages.Keys(self._keys))
        return True

    def _orders(self) -> messages.Orders:
        """What a new worker is told."""
        return messages.Orders(
            config=self._config,
            keys=self._keys,
            port=self._port,
            sockets={name: engine.socket for name, engine in self.house.engines.items()},
            pictures=str(self.house.pictures),
            statuses=self.house.statuses(),
        )

    def _stop(self, number: signal.Signals) -> None:
        """Ends in order; at once when it is asked for a second time from the terminal."""
        if self._stopped.is_set() and number is signal.SIGINT:
            self.crew.end(signal.SIGKILL)
        self._stopped.set()

    def _news(self) -> None:
        if not self._has_news:
            self._has_news = True
            asyncio.get_running_loop().call_soon(self._tell_news)

    def _tell_news(self) -> None:
        self._has_news = False
        self.crew.tell(messages.Statuses(self.house.statuses()))

    async def _end(self, working: asyncio.Task[None]) -> bool:
        """Has the workers finish, and ends those that do not in time; whether all of them had started."""
        await self._door.close()
        self.crew.end(signal.SIGTERM)
        await asyncio.wait({working}, timeout=self._config.server.shutdown_timeout + LAST_PATIENCE)
        self.crew.end(signal.SIGKILL)
        well = True
        try:
            await working
        except* StartFailed as failed:
            well = False
            log.error("a worker %s before it could serve", failed.exceptions[0])  # noqa: TRY400 - it has said why
        return well


async def _first(working: asyncio.Task[None], *events: asyncio.Event) -> None:
    """Returns when the task has ended or one of the events has come."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait({working, *waits}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
