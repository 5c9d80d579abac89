"""The server on its socket: binds, prints the banner once it listens, runs until a signal."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from math import ceil
from types import FrameType
from typing import Any, cast

import click
import uvicorn

from gateway import allocator, banner, descriptors
from gateway.app import create_app
from gateway.config import Config
from gateway.http1 import Connection, Lobby
from gateway.listener import accepted, bound
from gateway.parts import Parts
from gateway.reload import KeyFile

KEPT = 64 * 2**20  # bytes of freed memory: a few pictures with their base64
OTHER_FILES = 256  # that may be open besides connections to clients, and to engines elsewhere


def run(config: Config, key_file: KeyFile) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what is under way within its limit."""
    allocator.keep_freed(KEPT)
    listener = bound(config.server.host, config.server.port)
    port = listener.getsockname()[1]
    parts = Parts(config, port=port)
    server = Server(settings(create_app(config, parts, key_file), config))
    server.greeting = banner.text(config, parts.captioner.cache.description, port)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # a terminal that closes
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


class Server(uvicorn.Server):
    """Prints its greeting when it listens, not before; ends in order, and then well, at a signal."""

    greeting = ""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - that is how it is called
        """Ends it, at once when asked for a second time from the terminal.

        uvicorn would end itself by the same signal afterwards; but who ended in order is no failure to its supervisor.
        """
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to take connections."""
        await super().startup(sockets)
        if self.started:
            click.echo(self.greeting)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes those who have connected already, and nobody after them; then ends as uvicorn does."""
        most = self.config.backlog
        waiting = [connection for listener in sockets or [] for connection in islice(accepted(listener), most)]
        for server in self.servers:
            server.close()
        make: Any = self.config.http_protocol_class
        state = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        for connection in waiting:
            with suppress(OSError):  # it has gone meanwhile
                await asyncio.get_running_loop().connect_accepted_socket(partial(make, **state), connection)
        await super().shutdown(sockets)


def settings(app: Callable[..., Any], config: Config) -> uvicorn.Config:
    """How uvicorn serves the application."""
    limits = config.server
    lobby = Lobby(
        max_connections=descriptors.room_for(limits.max_connections, others=limits.max_requests + OTHER_FILES),
        keep_alive=limits.keep_alive,
        body_timeout=limits.body_timeout,
    )
    return uvicorn.Config(
        app,
        lifespan="on",
        http=cast("type[asyncio.Protocol]", partial(Connection, lobby)),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nobody asks who the client is
        server_header=False,
        timeout_graceful_shutdown=ceil(config.server.shutdown_timeout),
    )
