"""The server on its socket: binds, prints the banner once it listens, runs until a signal."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any, cast

import click
import uvicorn

from gateway import allocator, banner
from gateway.app import create_app
from gateway.config import Config
from gateway.http1 import Connection, Door
from gateway.listener import bound
from gateway.parts import Parts
from gateway.reload import KeyFile

KEPT = 64 * 2**20  # bytes of freed memory: a few pictures with their base64


def run(config: Config, key_file: KeyFile) -> None:
    """Serves until SIGINT or SIGTERM, then finishes what is under way within its limit."""
    allocator.keep_freed(KEPT)
    listener = bound(config.server.host, config.server.port)
    port = listener.getsockname()[1]
    parts = Parts(config, port=port)
    server = _Server(settings(create_app(config, parts, key_file), config))
    server.greeting = banner.text(config, parts.captioner.cache.description, port)
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # a terminal that closes
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped in order
        server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


class _Server(uvicorn.Server):
    """Prints its greeting when it listens, not before."""

    greeting: str

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            click.echo(self.greeting)


def settings(app: Callable[..., Any], config: Config) -> uvicorn.Config:
    """How uvicorn serves the application."""
    limits = config.server
    door = Door(max_connections=limits.max_connections, keep_alive=limits.keep_alive, body_timeout=limits.body_timeout)
    return uvicorn.Config(
        app,
        lifespan="on",
        http=cast("type[asyncio.Protocol]", partial(Connection, door)),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=ceil(config.server.shutdown_timeout),
    )
