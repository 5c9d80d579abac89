"""An owner and its workers in one process, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from gateway import config
from gateway.fleet import Fleet
from gateway.local import LocalEngine
from gateway.workers import messages
from gateway.workers.channel import Channel
from gateway.workers.contact import Contact
from gateway.workers.desk import Desk
from gateway.workers.engine import LentEngine
from gateway.workers.house import House
from tests.gateway.test_local import local_engine


def house(root: Path, engines: dict[str, LocalEngine] | None = None) -> House:
    """A house with those engines, which run by themselves."""
    made = House(config.load(None, {}, {}), root)
    made.engines = engines or {}
    return made


def orders(owner: House) -> messages.Orders:
    """What its workers are told first, who know of no models by themselves."""
    defaults = config.load(None, {}, {})
    empty = replace(defaults, models=(), engines=replace(defaults.engines, preload=()))
    sockets = {name: engine.socket for name, engine in owner.engines.items()}
    return messages.Orders(empty, (), 0, sockets, str(owner.pictures), owner.statuses())


class Office:
    """A house and those who work there."""

    def __init__(self, owner: House) -> None:
        self.house = owner
        self.desks: list[Desk] = []
        self.channels: list[Channel] = []  # the owner's ends
        self.lost = asyncio.Event()  # set when a worker has noticed that its owner is gone

    @asynccontextmanager
    async def hired(self) -> AsyncIterator[Contact]:
        """Another worker, which ends with the context, without a word."""
        ours, theirs = socket.socketpair()
        ended = asyncio.Event()
        sends: list[Channel] = []  # there is none before there is a desk that hears

        def send(message: messages.Message) -> None:
            sends[0].send(message)

        desk = Desk(self.house, send, everyone=self.ask, serving=lambda _: None)
        channel = await Channel.open(ours, desk.heard, ended.set)
        sends.append(channel)
        contact = Contact(theirs, orders(self.house), self.lost.set)
        await contact.open()
        self.desks.append(desk)
        self.channels.append(channel)
        try:
            yield contact
        finally:
            self.desks.remove(desk)
            self.channels.remove(channel)
            contact.close()
            await ended.wait()
            await desk.close()

    async def ask(self, question: messages.Gather) -> messages.Gathered:
        """The answers of all who have one."""
        told = [await desk.ask(question.name, question.about) for desk in self.desks]
        return messages.Gathered(tuple(each for each in told if each is not None), told.count(None))


@asynccontextmanager
async def office(folder: Path, *options: str, names: str = "a", request_timeout: float = 30) -> AsyncIterator[Office]:
    """A house whose engines are stand-ins, with one place for all of them."""
    async with Fleet(max_loaded=1) as fleet:
        engines = {
            name: local_engine(fleet, folder, *options, name=name, request_timeout=request_timeout) for name in names
        }
        for engine in engines.values():
            await engine.__aenter__()
        try:
            yield Office(house(folder, engines))
        finally:
            for engine in engines.values():
                await engine.__aexit__(None, None, None)


@asynccontextmanager
async def lent(work: Office, name: str = "a", *, request_timeout: float = 30) -> AsyncIterator[LentEngine]:
    """An engine as another worker has it."""
    socket_ = work.house.engines[name].socket
    async with (
        work.hired() as contact,
        LentEngine(name, socket_, contact, cold_start_wait=30, request_timeout=request_timeout) as engine,
    ):
        yield engine
