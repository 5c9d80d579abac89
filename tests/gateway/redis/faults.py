"""A Redis in trouble: what can become of a real one, or of the way to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class Way:
    """A relay in front of a Redis's Unix socket, on a port of loopback; how it relays can be changed at any time.

    `delay` is how many seconds later an answer comes; while `hole` is set nothing passes, in either direction; after
    `resets` is set the next answer is cut in its middle; while `says` is set that is what comes instead of each answer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writers: set[asyncio.StreamWriter] = set()
        self.delay = 0.0
        self.hole = False
        self.resets = False
        self.says = b""
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Way"]:
        """Relays until the block ends."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        tasks = [asyncio.ensure_future(self._pass(*way)) for way in ((reader, back, False), (there, writer, True))]
        with suppress(OSError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in (writer, back):
            each.transport.abort()
        self._writers -= {writer, back}

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_answer: bool) -> None:
        while data := await source.read(2**16):
            while self.hole:
                await asyncio.sleep(0.01)
            if is_answer:
                await asyncio.sleep(self.delay)
                if self.resets:
                    self.resets = False
                    target.write(data[: len(data) // 2])
                    return
            target.write(self.says if is_answer and self.says else data)
