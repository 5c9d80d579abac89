"""Two servers that speak chat completions."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway.remote.servers import Fake


@pytest.fixture
async def fake() -> AsyncIterator[Fake]:
    """One server."""
    async with Fake().running() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[Fake]:
    """Another one."""
    async with Fake().running() as running:
        yield running
