"""A running program: started on a leash, its output carried away line by line, ended with all that it started."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Self

log = logging.getLogger(__name__)

STOP_PATIENCE = 20.0  # seconds; engines drain for 10, and vLLM takes some more to put its things away
LEASH_PATIENCE = 2.0  # seconds that it may take to clear away what it would leave behind when it is killed
LAST_WORDS = 1.0  # seconds for what a dead child has printed
LONGEST_LINE = 2000  # characters
BLOCK = 65536  # bytes


class Child:
    """A child process, leader of a session of its own.

    Its standard input is the end of a pipe on which nothing is ever written: when we die, however, it closes, which
    tells the child. Its output is read whether or not anybody waits for the child. The pipes are ours and not
    asyncio's, because asyncio reports a death only when nobody holds the pipes any more, grandchildren included.
    """

    def __init__(self, process: asyncio.subprocess.Process, leash: int, reading: asyncio.Task[None]) -> None:
        self._process = process
        self._leash: int | None = leash
        self._insisting: asyncio.TimerHandle | None = None
        self._reading = reading

    @classmethod
    async def spawn(
        cls, command: Sequence[str], environ: Mapping[str, str] | None, on_line: Callable[[str], None]
    ) -> Self:
        """Starts a program; each line that it prints is given to `on_line`.

        Raises:
            OSError: it cannot be started.
        """
        input_end, leash = os.pipe()
        log_end, output_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=input_end, stdout=output_end, stderr=output_end, env=environ, start_new_session=True
            )
        except BaseException:
            os.close(leash)
            os.close(log_end)
            raise
        finally:
            os.close(input_end)
            os.close(output_end)
        return cls(process, leash, asyncio.create_task(_read(log_end, on_line)))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Its exit code, once it has ended; a signal's number, negated, when one ended it."""
        return await self._process.wait()

    def kill(self) -> None:
        """Ends it, with everything that it started: lets go of the leash, and insists after a moment."""
        self._let_go()
        if self._insisting is None:
            self._insisting = asyncio.get_running_loop().call_later(LEASH_PATIENCE, self._kill_all)

    async def close(self) -> None:
        """Asks it to end, insists after a while, and takes along what it has started and printed."""
        if self.running:
            # The leader alone: it knows in which order those that it has started are to end.
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_PATIENCE):
                    await self.wait()
            except TimeoutError:
                log.warning("process %d did not end in %.0f s and is killed", self.pid, STOP_PATIENCE)
                self.kill()
                await self.wait()
        if self._insisting is not None:
            self._insisting.cancel()
        self._kill_all()
        await self.wait()
        await asyncio.wait({self._reading}, timeout=LAST_WORDS)
        self._reading.cancel()
        self._let_go()

    def _let_go(self) -> None:
        leash, self._leash = self._leash, None
        if leash is not None:
            os.close(leash)

    def _kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


async def _read(log_end: int, on_line: Callable[[str], None]) -> None:
    """Reads to the end of a pipe, line by line; of a line that is too long, its end."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(log_end, "rb", buffering=0)
    )
    try:
        rest = b""
        while block := await stream.read(BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            rest = rest[-LONGEST_LINE:]
            for line in lines:
                on_line(_text(line))
        on_line(_text(rest))
    finally:
        transport.close()


def _text(line: bytes) -> str:
    # A progress bar writes over its own line; what it said last is what counts.
    return line.decode("utf-8", "replace").rstrip().rpartition("\r")[2][-LONGEST_LINE:]
