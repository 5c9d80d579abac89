"""A worker: the gateway as it is with one process, which gets its connections from the owner."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from gateway import allocator
from gateway.app import create_app
from gateway.logs import pipeline
from gateway.logs.sink import Sink
from gateway.parts import Parts
from gateway.server import KEPT, settings
from gateway.workers import messages
from gateway.workers.contact import Contact
from gateway.workers.lent import Lent
from gateway.workers.messages import HEAD, Orders, Serving
from gateway.workers.share import share

ORPHANED = 70  # the exit code of a worker whose owner is gone: nobody sees it


def main() -> None:
    """Serves until the owner says SIGTERM, or is gone."""
    allocator.keep_freed(KEPT)
    channel, door = socket.socket(fileno=sys.stdin.fileno()), socket.socket(fileno=int(sys.argv[1]))
    orders = _orders(channel)
    with pipeline.running(orders.config.log) as sink:
        _serve(orders, channel, door, lost=partial(_leave, sink))


def _leave(sink: Sink) -> None:
    sink.flush()
    os._exit(ORPHANED)


def _serve(orders: Orders, channel: socket.socket, door: socket.socket, lost: Callable[[], None]) -> None:
    config = share(orders.config)
    contact = Contact(channel, orders, lost=lost)
    parts = Parts(config, port=orders.port, backing=Lent(contact, orders, config))
    server = Worker(settings(create_app(config, parts, contact), config), door)
    server.on_start = lambda: contact.tell(Serving(parts.captioner.cache.description))
    server.run(sockets=[])
    if not server.started:
        sys.exit(1)


class Worker(uvicorn.Server):
    """Serves the connections that come through `door`, a socket."""

    def __init__(self, config: uvicorn.Config, door: socket.socket) -> None:
        super().__init__(config)
        self._door = door
        self._door.setblocking(False)
        self._opening: set[asyncio.Task[None]] = set()
        self.on_start: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to take connections."""
        await super().startup(sockets)
        if self.started:
            asyncio.get_running_loop().add_reader(self._door, self._take)
            self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes what was given to it, and nothing after that."""
        asyncio.get_running_loop().remove_reader(self._door)
        self._take()
        await asyncio.gather(*self._opening)
        self._door.close()
        await super().shutdown(sockets)

    def _take(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._door, 1, 1)
            except (BlockingIOError, InterruptedError):
                return
            for descriptor in descriptors:
                task = asyncio.create_task(self._begin(socket.socket(fileno=descriptor)))
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            if not data:  # the owner is gone, which the channel says as well
                asyncio.get_running_loop().remove_reader(self._door)
                return

    async def _begin(self, connection: socket.socket) -> None:
        make: Any = self.config.http_protocol_class
        protocol = make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except OSError:  # it has gone meanwhile
            connection.close()


def _orders(channel: socket.socket) -> Orders:
    """What the owner says first; the worker has no use without."""
    size = int.from_bytes(_read(channel, HEAD), "big")
    orders = messages.decode_from_owner(_read(channel, size))
    if not isinstance(orders, Orders):
        sys.exit(ORPHANED)
    return orders


def _read(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = channel.recv(size - len(data))
        if not block:
            sys.exit(ORPHANED)
        data += block
    return data
