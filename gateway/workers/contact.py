"""A worker's way to its owner: what it asks for, what it is lent, and what it is told."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import TypeVar

from gateway.auth import Key
from gateway.engine import Status
from gateway.errors import EngineUnavailable
from gateway.line import Visit
from gateway.reload import Takes
from gateway.workers import messages
from gateway.workers.channel import Channel
from gateway.workers.messages import Call, Leave, Orders, Refused, Respond, Result, Wish

log = logging.getLogger(__name__)

R = TypeVar("R")


async def alive(_: bytes) -> bytes:
    """That it answers says it."""
    return b""


class Contact:
    """Open it inside the loop. `lost` is called when the owner is gone.

    `answers` holds what answers the questions of others; `statuses` is what the engines are doing.
    """

    def __init__(self, end: socket.socket, orders: Orders, lost: Callable[[], None]) -> None:
        self._end = end
        self._lost = lost
        self._channel: Channel | None = None
        self._calls: dict[int, asyncio.Future[Result]] = {}
        self._numbers = count()
        self._keys = orders.keys
        self._keyring: Takes | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self.statuses = orders.statuses
        self.answers: dict[str, Respond] = {"alive": alive}

    async def open(self) -> None:
        """From now on it hears and is heard."""
        self._channel = await Channel.open(self._end, self._heard, self._lost)

    def close(self) -> None:
        """The owner takes back what was lent."""
        self._lost = _nothing
        if self._channel is not None:
            self._channel.close()

    async def ask(self, wish: Wish, kind: type[R]) -> R:
        """The owner's reply, which is of that kind.

        Raises:
            EngineUnavailable: it refuses.
        """
        number = next(self._numbers)
        try:
            result = await self._reply(number, wish)
        except asyncio.CancelledError:
            self.tell(Leave(number))
            raise
        if not isinstance(result, kind):
            raise TypeError(f"{type(result).__name__} is no reply to {type(wish).__name__}")
        return result

    @asynccontextmanager
    async def lent(self, wish: Wish) -> AsyncIterator[Visit]:
        """What is lent, until the context ends.

        Raises:
            EngineUnavailable: the owner refuses.
        """
        number, visit = await self.borrow(wish), Visit()
        try:
            yield visit
        finally:
            self.tell(Leave(number, visit.heard_at))

    async def borrow(self, wish: Wish) -> int:
        """The same for who says `Leave` with the number that it returns.

        Raises:
            EngineUnavailable: the owner refuses.
        """
        number = next(self._numbers)
        try:
            await self._reply(number, wish)
        except asyncio.CancelledError:
            self.tell(Leave(number))
            raise
        return number

    def tell(self, message: messages.Message) -> None:
        """Says something that needs no reply."""
        if self._channel is not None:
            self._channel.send(message)

    async def gather(self, name: str, about: bytes = b"") -> messages.Gathered:
        """What all workers, this one among them, and the owner answer to the question of that name."""
        return await self.ask(messages.Gather(name, about), messages.Gathered)

    @asynccontextmanager
    async def watched(self, keyring: Takes) -> AsyncIterator[None]:
        """Keeps the keyring as the owner has it, who reads the file for all."""
        self._keyring = keyring
        keyring.replace(self._keys)
        try:
            yield
        finally:
            self._keyring = None

    def status(self, engine: str) -> Status:
        """What an engine is doing."""
        return self.statuses[engine]

    async def _reply(self, number: int, wish: Wish) -> Result:
        reply: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._calls[number] = reply
        try:
            self.tell(Call(number, wish))
            result = await reply
        finally:
            del self._calls[number]
        if isinstance(result, Refused):
            error = EngineUnavailable(result.message, retry_after=result.retry_after)
            error.heals = result.heals
            raise error
        return result

    def _heard(self, frame: bytes) -> None:
        match messages.decode_from_owner(frame):
            case messages.Reply(number, result):
                call = self._calls.get(number)
                if call is not None and not call.done():
                    call.set_result(result)
            case messages.Statuses(statuses):
                self.statuses = statuses
            case messages.Keys(keys):
                self._take(keys)
            case messages.Question() as question:
                task = asyncio.create_task(self._answer(question))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    def _take(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        if self._keyring is not None:
            self._keyring.replace(keys)

    async def _answer(self, question: messages.Question) -> None:
        data = None
        try:
            if respond := self.answers.get(question.name):
                data = await respond(question.about)
        except Exception:
            log.exception("the question '%s' could not be answered", question.name)
        self.tell(messages.Answer(question.id, data))


def _nothing() -> None:
    """Nobody waits for it."""
