"""A decoding worker as its parent sees it: a process that does one task at a time, and can be killed at any."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from gateway.images import task
from gateway.images.task import Outcome, Task

MODULE = "gateway.images.worker"
START_PATIENCE = 30.0  # seconds
END_PATIENCE = 1.0  # seconds from its last word to its end


class DecoderDied(Exception):
    """The worker has ended, or answered what no worker of ours would answer; it is of no further use."""


class DecoderExhausted(DecoderDied):
    """The worker has used up the processor's time that its task was given."""


class DecoderKilled(DecoderDied):
    """Somebody else has killed the worker: no flaw in a decoder does, but a system that is out of memory."""


class Decoder:
    """A worker. `filtered` says whether the kernel filters its system calls; `done` counts its tasks."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self.filtered = False
        self.done = 0

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> Self:
        """A worker that is ready.

        Raises:
            OSError, TimeoutError, DecoderDied: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                decoder = cls(await _spawn(arguments, theirs), ours)
        except BaseException:
            ours.close()
            raise
        try:
            async with asyncio.timeout(START_PATIENCE):
                decoder.filtered = await decoder._heard(len(task.READY_LOCKED)) == task.READY_LOCKED
        except BaseException:
            decoder.kill()
            await decoder.ended()
            raise
        return decoder

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is not known to have ended."""
        return self._process.returncode is None

    def send(self, wanted: Task, encoded: int, result: int) -> None:
        """Gives it a task, with the descriptors of the memory that holds the file and of that for the result.

        Raises:
            DecoderDied: it had ended before; the task is untouched.
        """
        try:
            socket.send_fds(self._channel, [task.encode(wanted)], [encoded, result])
        except OSError:
            raise DecoderDied("it has ended") from None

    async def answer(self, room: int) -> tuple[Outcome, int]:
        """How its task went, and how many bytes of the `room` for its result were used.

        Raises:
            DecoderDied: it ended over it, or its answer is none; a `DecoderKilled` where the task has no part in that.
        """
        message = await self._heard(task.ANSWER)
        try:
            outcome, used = task.read_answer(message)
        except ValueError:
            raise DecoderDied("its answer is none") from None
        if used > room or (outcome is Outcome.DONE and not used):
            raise DecoderDied("its answer cannot be")
        self.done += 1
        return outcome, used

    def kill(self) -> None:
        """Ends it at once."""
        self._channel.close()
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Waits until it has ended."""
        await self._process.wait()

    async def _heard(self, count: int) -> bytes:
        loop, message = asyncio.get_running_loop(), b""
        while len(message) < count:
            try:
                block = await loop.sock_recv(self._channel, count - len(message))
            except OSError:
                block = b""
            if not block:
                raise await self._death()
            message += block
        return message

    async def _death(self) -> DecoderDied:
        """What it has died of, now that its end of the channel is closed."""
        try:
            async with asyncio.timeout(END_PATIENCE):
                code = await self._process.wait()
        except TimeoutError:
            return DecoderDied("it has closed its channel")
        if code == -signal.SIGXCPU:
            return DecoderExhausted("its time is used up")
        if code == -signal.SIGKILL:
            return DecoderKilled("somebody else has killed it")
        return DecoderDied(f"signal {-code}" if code < 0 else f"status {code}")


async def _spawn(arguments: Sequence[str], channel: socket.socket) -> asyncio.subprocess.Process:
    # Python's own start-up files are not for it, and nothing of our environment is: just where the modules are.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-P", "-m", MODULE, *arguments),
        stdin=channel.fileno(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )
