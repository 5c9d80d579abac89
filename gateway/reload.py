"""Keys without a restart: the configuration file is looked at every second, and new keys hold from then on.

Not at a signal: SIGHUP is what a terminal sends when it closes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from gateway.auth import Key
from gateway.config import Config
from gateway.values import ConfigError

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds
SETTLES = 0.25  # seconds that a file which is written stays the same when it is whole
RESTLESS = 4  # looks in a row at which it was another each time
KEYLESS = 12  # more of them without any key, before that is believed of it

Signature = tuple[int, int, int]


class Takes(Protocol):
    """Whoever is to have the keys that hold: a `Keyring`, or the owner of several workers."""

    def replace(self, keys: Iterable[Key]) -> bool:
        """From now on these hold; whether that changes anything."""
        ...


class KeySource(Protocol):
    """Where keys come from: their file, or the owner that reads it."""

    def watched(self, keyring: Takes) -> AbstractAsyncContextManager[None]:
        """Keeps the keyring as the source has it."""
        ...


class KeyFile:
    """The file that the keys stand in. `load` reads the whole configuration, of which the keys alone are taken.

    Make it before the file is read for the first time, so that no change between falls through.
    """

    def __init__(self, file: Path, load: Callable[[], Config]) -> None:
        self._file = file
        self._load = load
        self._last = self._read = _signature(file)
        self._changes = 0  # in a row, each seen at another look
        self._keyless = 0  # looks in a row at which it could be read and had no key

    @asynccontextmanager
    async def watched(self, keyring: Takes) -> AsyncIterator[None]:
        """Keeps the keyring as the file has it."""
        watching = asyncio.create_task(self._watch(keyring))
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def look(self, keyring: Takes) -> None:
        """Reads the file if it is another than the one read last, and the same as at the last look: no half of one.

        One that never is the same is read all the same, with more care.
        """
        seen = await asyncio.to_thread(_signature, self._file)
        self._changes = 0 if seen == self._last else self._changes + 1
        self._last = seen
        if seen == self._read:
            return
        if not self._changes:
            self._read, self._keyless = seen, 0
            await self._take(keyring)
        elif self._changes >= RESTLESS:
            await self._take_restless(keyring)

    async def _watch(self, keyring: Takes) -> None:
        while True:
            await asyncio.sleep(SETTLES if self._changes else LOOK_EVERY)
            await self.look(keyring)

    async def _take(self, keyring: Takes) -> None:
        if self._read is None:
            log.error("The keys stay as they are: %s is not there any more", self._file)
            return
        try:
            config = await asyncio.to_thread(self._load)
        except ConfigError as error:
            log.error("The keys stay as they are: %s", error)  # noqa: TRY400 - the sentence says it all
        except Exception:
            log.exception("The keys stay as they are")
        else:
            self._replace(keyring, config)

    async def _take_restless(self, keyring: Takes) -> None:
        """Reads a file that changes all the time, unless it does so meanwhile, or may be the half of one."""
        keyless, self._keyless = self._keyless, 0
        with suppress(Exception):  # what is wrong with it is told when it has settled
            config = await asyncio.to_thread(self._load)
            if await asyncio.to_thread(_signature, self._file) != self._last:
                self._keyless = keyless
            elif config.keys or keyless >= KEYLESS:
                self._read = self._last
                self._replace(keyring, config)
            else:
                self._keyless = keyless + 1

    def _replace(self, keyring: Takes, config: Config) -> None:
        if keyring.replace(config.keys):
            log.info("The keys were read anew; there are %d", len(config.keys))


def _signature(file: Path) -> Signature | None:
    """What changes when the file does, None for one that is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
