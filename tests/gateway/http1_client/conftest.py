"""These tests run on the loop that the gateway runs on."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """uvloop's transports are its own, and close in their own way."""
    return {"uvloop": uvloop.new_event_loop}
