"""What the owner does for one worker, and takes back when that worker ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count

from gateway.auth import Caller
from gateway.errors import EngineUnavailable
from gateway.line import Visit
from gateway.quota import Wanted
from gateway.workers import messages
from gateway.workers.house import House
from gateway.workers.messages import (
    Amounts,
    Charged,
    Done,
    Expected,
    Found,
    Gathered,
    Question,
    Refused,
    Reply,
    Result,
    Wish,
)

log = logging.getLogger(__name__)

Send = Callable[[messages.Message], None]
Ask = Callable[[messages.Gather], Awaitable[Gathered]]


class _Call:
    """A call that is not over: not answered yet, or what it asked for is still lent."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.lent = False
        self.left: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()


class Desk:
    """`send` reaches the worker, `everyone` asks all workers, `serving` is called when it can take connections."""

    def __init__(self, house: House, send: Send, *, everyone: Ask, serving: Callable[[str], None]) -> None:
        self._house = house
        self._send = send
        self._everyone = everyone
        self._serving = serving
        self._calls: dict[int, _Call] = {}
        self._places: dict[str, Caller] = {}
        self._questions: dict[int, asyncio.Future[bytes | None]] = {}
        self._numbers = count()

    def heard(self, frame: bytes) -> None:
        """Does what the worker says."""
        match messages.decode_from_worker(frame):
            case messages.Call(number, wish):
                self._begin(number, wish)
            case messages.Leave(number, heard_at):
                self._end(number, heard_at)
            case messages.GiveBack(caller, taken):
                self._give_back(caller, taken)
            case messages.Keep(key, data):
                self._house.store.put_data(key, data)
            case messages.Want(engine):
                self._house.engines[engine].want()
            case messages.CannotAnswer(engine):
                self._house.engines[engine].cannot_answer()
            case messages.Answer(number, data):
                question = self._questions.pop(number, None)
                if question is not None and not question.done():  # its asker may have given up just now
                    question.set_result(data)
            case messages.Serving(cache):
                self._serving(cache)

    async def ask(self, name: str, about: bytes) -> bytes | None:
        """The worker's answer to a question; None when it has none. Ends only when the worker does: bound it."""
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._questions[number] = future
        try:
            self._send(Question(number, name, about))
            answer: bytes | None = await future
            return answer
        finally:
            self._questions.pop(number, None)

    async def close(self) -> None:
        """Takes back whatever the worker has: it is no more."""
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        for question in self._questions.values():
            question.set_result(None)
        for place, caller in [*self._places.items()]:
            self._give_back(caller, Wanted(place=place))
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- calls ---

    def _begin(self, number: int, wish: Wish) -> None:
        call = self._calls[number] = _Call()
        call.task = asyncio.create_task(self._answer(number, wish, call))
        call.task.add_done_callback(lambda _: self._calls.pop(number))  # a task that is cancelled early never begins

    def _end(self, number: int, heard_at: float | None) -> None:
        call = self._calls.get(number)
        if call is None or call.task is None:
            return
        if call.lent:
            call.left.set_result(heard_at)
        else:
            call.task.cancel()

    async def _answer(self, number: int, wish: Wish, call: _Call) -> None:
        try:
            match wish:
                case messages.Use(engine, wait):
                    await self._lend(number, self._house.engines[engine].visited(wait), call)
                case messages.Lease(name):
                    await self._lend(number, self._house.leases.held(name), call)
                case messages.Memory(purpose, size):
                    await self._lend(number, self._house.memory[purpose].reserved(size), call)
                case _:
                    self._send(Reply(number, await self._result(wish)))
        except EngineUnavailable as error:
            self._send(Reply(number, Refused(error.message, error.retry_after, error.heals)))
        except Exception:
            log.exception("what a worker wished for failed")
            self._send(Reply(number, Refused("The gateway's owner failed. Its log says more.", None, heals=False)))

    async def _lend(self, number: int, what: AbstractAsyncContextManager[Visit | None], call: _Call) -> None:
        async with what as visit:
            call.lent = True
            self._send(Reply(number, Done()))
            heard_at = await call.left
            if visit is not None:
                visit.heard_at = heard_at

    async def _result(self, wish: Wish) -> Result:
        match wish:
            case messages.Charge():
                return await self._charged(wish)
            case messages.Find(key):
                return Found(self._house.store.data(key))
            case messages.Forget(selection):
                return Amounts(await self._house.store.remove(selection))
            case messages.Count():
                return Amounts(self._house.store.amount)
            case messages.Gather():
                return await self._everyone(wish)
            case _:
                return await self._kept(wish)

    async def _kept(self, wish: Wish) -> Result:
        """What concerns an engine that is lent already."""
        match wish:
            case messages.DeathNoticed(engine):
                return Expected(await self._house.engines[engine].death_noticed())
            case messages.EnsureReady(engine, wait):
                await self._house.engines[engine].ensure_ready(wait)
                return Done()
            case _:
                raise TypeError(f"{type(wish).__name__} is not answered like this")

    async def _charged(self, wish: messages.Charge) -> Charged:
        outcome = await self._house.books.take(wish.caller, wish.wanted)
        if wish.wanted.place is not None and outcome.refused is None:
            self._places[wish.wanted.place] = wish.caller
        return Charged(outcome)

    def _give_back(self, caller: Caller, taken: Wanted) -> None:
        if taken.place is not None:
            self._places.pop(taken.place, None)
        self._house.books.restore(caller, taken)
