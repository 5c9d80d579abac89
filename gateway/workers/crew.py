"""The workers' processes: started, watched, given connections in turn, replaced when they die, drained in the end."""

import array
import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from gateway.backoff import Backoff
from gateway.metrics import METRICS
from gateway.workers import messages
from gateway.workers.channel import Channel
from gateway.workers.desk import Ask, Desk
from gateway.workers.house import House

log = logging.getLogger(__name__)

MODULE = "gateway.workers"
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds between starts of a worker that dies
STEADY_AFTER = 60.0  # seconds; a worker that lived this long begins its pauses anew
ANSWER_PATIENCE = 2.0  # seconds for an answer to a question
STUCK_AFTER = 1.0  # seconds for which a worker leaves a connection untaken
LOOK_EVERY = 5.0  # seconds between looks at whether a worker does anything
LOOK_PATIENCE = 30.0  # seconds that a worker may do nothing
ALIVE = "alive"  # a question that every worker can answer


class StartFailed(Exception):
    """A worker could not start, before all had once been there."""


class Member:
    """One worker, from its start to its end."""

    def __init__(self, house: House, *, everyone: Ask, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._door: socket.socket | None = None
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._told: signal.Signals | None = None
        self._free_at = 0.0  # when it had last been seen with no connection untaken
        self.cache: str | None = None  # what it says of its cache, once it can take connections
        self.is_starting = True
        self.metrics: bytes | None = None  # as it told them last
        self.desk = Desk(house, self.send, everyone=everyone, serving=self._serving)

    async def live(self, orders: Callable[[], messages.Orders]) -> int:
        """Starts it, and returns its exit code in the end, when all that it had is free.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        self._door, door = socket.socketpair()
        self._door.setblocking(False)
        with theirs, door, self._door:
            try:
                self._process = await _spawn(theirs, door)
            except BaseException:
                ours.close()
                raise
            theirs.close()
            if self._told is not None:
                self.signal(self._told)
            self._channel = await Channel.open(ours, self.desk.heard, self._lost)
            self.send(orders())
            try:
                return await self._process.wait()
            finally:
                await self._ended()

    def send(self, message: messages.Message) -> None:
        """Tells it something."""
        if self._channel is not None:
            self._channel.send(message)

    def take(self, connection: socket.socket) -> bool:
        """Gives it a connection; whether it could take it."""
        if self._door is None or self.cache is None:
            return False
        try:
            return socket.send_fds(self._door, [b"+"], [connection.fileno()]) == 1
        except OSError:
            return False

    def seems_stuck(self) -> bool:
        """Whether it has left a connection untaken for `STUCK_AFTER`. To be asked before it is given another."""
        now = time.monotonic()
        if self._door is None or not _unread(self._door):
            self._free_at = now
        return now - self._free_at > STUCK_AFTER

    def signal(self, number: signal.Signals) -> None:
        """Sends its process a signal; to all that it has started as well where that is to end it at once."""
        self._told = number
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                send = os.killpg if number is signal.SIGKILL else os.kill
                send(self._process.pid, number)

    async def answer(self, question: messages.Gather) -> bytes | None:
        """Its answer to a question, where it has one in time."""
        answer = await _within(self.desk.ask(question.name, question.about))
        if question.name == METRICS and answer is not None:
            self.metrics = answer
        return answer

    async def watch(self) -> None:
        """Kills it when it does nothing any more, though it once could take connections. Does not return."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self.cache is None:
                continue
            try:
                async with asyncio.timeout(LOOK_PATIENCE):
                    await self.desk.ask(ALIVE, b"")
            except TimeoutError:
                log.error("worker %s has done nothing for %.0f s and is killed", self.pid, LOOK_PATIENCE)  # noqa: TRY400
                self.signal(signal.SIGKILL)

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return None if self._process is None else self._process.pid

    def _serving(self, cache: str) -> None:
        self.cache = cache
        self.is_starting = False
        self._changed()

    def _lost(self) -> None:
        """Its end of the channel is closed: it takes no more connections."""
        self.cache = None

    async def _ended(self) -> None:
        self._lost()
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
        if self._channel is not None:
            self._channel.close()
        await self.desk.close()


class Crew:
    """So many workers of a house. `orders` makes what a new one is told first."""

    def __init__(self, count: int, house: House, orders: Callable[[], messages.Orders]) -> None:
        self._count = count
        self._house = house
        self._orders = orders
        self._members: dict[int, Member] = {}
        self._turn = 0
        self._closing = asyncio.Event()
        self.whole = asyncio.Event()  # set once all of them have been there together

    async def run(self) -> None:
        """Keeps them all running, until they are told to end and have ended.

        Raises:
            StartFailed: one of them ended before all had been there.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._keep(number))

    def give(self, connection: socket.socket) -> bool:
        """Gives a connection to the next who can take it, to one that is stuck last; whether anyone could."""
        turns = [(self._turn + step) % self._count for step in range(1, self._count + 1)]
        members = [(turn, self._members[turn]) for turn in turns if turn in self._members]
        for turn, member in sorted(members, key=lambda each: each[1].seems_stuck()):
            if member.take(connection):
                self._turn = turn
                return True
        return False

    def tell(self, message: messages.Message) -> None:
        """Tells all of them something."""
        for member in self._members.values():
            member.send(message)

    @property
    def pids(self) -> list[int]:
        """The process ids of those who live."""
        return [member.pid for member in self._members.values() if member.pid is not None]

    @property
    def caches(self) -> Iterator[str]:
        """What each worker says of its cache."""
        return (member.cache for member in self._members.values() if member.cache is not None)

    async def ask(self, question: messages.Gather) -> messages.Gathered:
        """The answers of all workers, and of the house, to a question; of those that have one, in time.

        A worker that is still starting is not asked: it has nothing yet, and would have everybody wait for it. One that
        is about to end is, and is missing, for what it has counted is not yet the house's.
        """
        asked = [member.answer(question) for member in self._members.values() if not member.is_starting]
        if own := self._house.answers.get(question.name):
            asked.append(_within(own(question.about)))
        answers = await asyncio.gather(*asked)
        told = tuple(answer for answer in answers if answer is not None)
        return messages.Gathered(told, len(answers) - len(told))

    def end(self, number: signal.Signals) -> None:
        """Has all of them end; none is replaced from now on."""
        self._closing.set()
        for member in self._members.values():
            member.signal(number)

    async def _keep(self, number: int) -> None:
        """One worker after another in the same place."""
        backoff = Backoff(first=FIRST_PAUSE, longest=LONGEST_PAUSE)
        while not self._closing.is_set():
            began = time.monotonic()
            what = await self._lived(number)
            if self._closing.is_set():
                return
            if not self.whole.is_set():
                raise StartFailed(what)
            if time.monotonic() - began > STEADY_AFTER:
                backoff.recovered()
            log.error("worker %d %s; another takes its place", number, what)
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.failed()):
                    await self._closing.wait()

    async def _lived(self, number: int) -> str:
        """One life of a worker; how it ended."""
        member = self._members[number] = Member(self._house, everyone=self.ask, changed=self._changed)
        watching = asyncio.create_task(member.watch())
        try:
            return f"ended with exit code {await member.live(self._orders)}"
        except OSError as error:
            return f"could not be started ({error.strerror})"
        finally:
            watching.cancel()
            del self._members[number]
            if member.metrics is not None:
                self._house.inherit(member.metrics)

    def _changed(self) -> None:
        if len([*self.caches]) == self._count:
            self.whole.set()


async def _spawn(channel: socket.socket, door: socket.socket) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", MODULE, str(door.fileno())),
        stdin=channel.fileno(),
        pass_fds=[door.fileno()],
        start_new_session=True,  # what a terminal sends is for the owner, who passes it on in order
    )


def _unread(end: socket.socket) -> int:
    """How much lies in a pair of sockets that the other end has not read."""
    count = array.array("i", [0])
    fcntl.ioctl(end, termios.TIOCOUTQ, count)
    return count[0]


async def _within(answer: Awaitable[bytes | None]) -> bytes | None:
    """The answer, where there is one in time that is not too large."""
    try:
        async with asyncio.timeout(ANSWER_PATIENCE):
            data = await answer
    except TimeoutError:
        return None
    return data if data is not None and len(data) <= messages.MOST_ANSWER else None
