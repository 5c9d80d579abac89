"""A server, and the loop that the gateway runs on."""

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.gateway.http1_client.peers import Peer


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """uvloop's transports are its own, and close in their own way."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A server."""
    async with Peer().serving() as serving:
        yield serving
