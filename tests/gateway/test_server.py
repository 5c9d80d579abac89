"""What the server is told before it listens, and whom it still takes when it ends."""

import asyncio
import gc
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway import config, listener, server
from gateway.app import create_app
from gateway.parts import Parts
from gateway.reload import KeyFile
from tests.gateway.http1.served import GET, echo


def test_idle_connections_outlive_the_pools_of_clients() -> None:
    """Clients keep connections for up to 120 s; a server that closes first loses requests to a race."""
    loaded = config.load(None, {}, {})

    assert loaded.server.keep_alive > 120
    assert server.settings(lambda: None, loaded).timeout_graceful_shutdown == 30


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_every_loopback_address_can_be_listened_on(host: str) -> None:
    """IPv4, IPv6 and the name."""
    with listener.bound(host, 0) as bound:
        assert bound.getsockname()[1] > 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echoes, and has nothing to begin or to end."""
    if scope["type"] == "http":
        await echo(scope, receive, send)
        return
    for stage in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{stage}.complete"})


async def test_who_has_connected_before_the_end_is_answered() -> None:
    """Also who waits in the queue of the system for being taken: to close that would reset the connection."""
    settings = server.settings(app, config.load(None, {}, {}))
    settings.load()
    bound = listener.bound("127.0.0.1", 0)
    ending = server.Server(settings)
    ending.lifespan = settings.lifespan_class(settings)
    await ending.startup([bound])
    with socket.create_connection(bound.getsockname(), timeout=20) as waiting:
        waiting.sendall(GET)
        await ending.shutdown([bound])  # the loop has had no time to take it before
        answer = await asyncio.to_thread(waiting.recv, 2**16)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in answer


async def test_what_is_there_from_the_start_is_not_looked_through_again(tmp_path: Path) -> None:
    """A collection over all of it stops every request for tens of milliseconds."""
    loaded = config.load(None, {}, {"engines": {"preload": []}})
    served = create_app(loaded, Parts(loaded), KeyFile(tmp_path / "none.toml", lambda: loaded))
    settings = server.settings(served, loaded)
    settings.load()
    lifespan = settings.lifespan_class(settings)
    before = gc.get_freeze_count()
    try:
        await lifespan.startup()
        frozen = gc.get_freeze_count() - before
    finally:
        await lifespan.shutdown()
        gc.unfreeze()

    assert frozen > 10_000
