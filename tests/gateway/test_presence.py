"""What becomes of work whose client leaves."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from litestar import Litestar
from litestar.types import HTTPRequestEvent, Message

from gateway import middleware
from gateway.config import ImagesConfig
from gateway.http1.exchange import WATCH
from gateway.images.ingest import Ingest
from gateway.limits import Gate
from gateway.quota import LocalBooks
from gateway.routes import chat
from gateway.routes.presence import ClientLeft, Presence
from tests import pictures
from tests.gateway.test_captioning import URL, Altgate, FakeEngine, Site, chunks

ASKED = {"model": "m", "stream": True, "messages": [pictures.message(URL)]}


class Line:
    """A client that is there until it leaves."""

    def __init__(self) -> None:
        self._on_left: Callable[[], None] | None = None

    @property
    def watched(self) -> bool:
        """Whether anybody wants to know."""
        return self._on_left is not None

    @property
    def scope(self) -> Any:
        """That of its request, as far as it matters here."""
        return {"extensions": {WATCH: self.watch}}

    def watch(self, on_left: Callable[[], None] | None) -> None:
        """As an exchange does it."""
        self._on_left = on_left

    def leave(self) -> None:
        """The client is gone."""
        if self._on_left is not None:
            self._on_left()


class Client(Line):
    """Sends a request, takes so many messages of its answer and then no more, and leaves."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self._left = takes

    async def receive(self) -> HTTPRequestEvent:
        """Its request."""
        return {"type": "http.request", "body": json.dumps(ASKED).encode(), "more_body": False}

    async def send(self, _: Message) -> None:
        """Takes it, or not."""
        self._left -= 1
        if self._left < 0:
            asyncio.get_running_loop().call_soon(self.leave)
            await asyncio.Event().wait()


@pytest.mark.parametrize("takes", [0, 1, 3])
async def test_a_client_that_does_not_read_and_leaves_frees_its_engine(takes: int) -> None:
    """Its engine's work ends, wherever in the answer the sending stands."""
    engine, client = FakeEngine(streamed=chunks(*[{"content": "on and "}] * 10)), Client(takes)
    async with Ingest(Site(), ImagesConfig()) as ingest:
        captioner = Altgate(engine, ingest, "vllm").captioner
        route = chat.route(captioner, heartbeat=3600, longest_wait=60, max_body=2**20)
        admitted = middleware.Admission(Litestar([route], openapi_config=None), Gate(max_requests=1, max_bytes=2**20))
        limited = middleware.Limits(admitted, LocalBooks())
        scope: Any = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/chat/completions", "root_path": "",
            "raw_path": b"/v1/chat/completions", "query_string": b"", "headers": [], "scheme": "http", "state": {},
            **client.scope,
        }  # fmt: skip
        async with asyncio.timeout(20):
            await middleware.Recording(limited, lambda _: None)(scope, client.receive, client.send)

    assert engine.closed


async def wait_for_ever(line: Line, at_last: Callable[[], None]) -> None:
    """Work that ends with its client."""
    async with Presence(line.scope):
        try:
            await asyncio.Event().wait()
        finally:
            at_last()


async def test_work_ends_when_the_client_leaves() -> None:
    """It is cancelled where it waits, and the leaving is what is told."""
    line, ended = Line(), asyncio.Event()
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(line.leave))

    with pytest.raises(ClientLeft):
        await wait_for_ever(line, ended.set)

    assert ended.is_set()


async def test_work_that_is_done_is_done() -> None:
    """Nobody looks at the client any more, and its leaving touches nothing."""
    line = Line()
    async with Presence(line.scope):
        assert line.watched
        late = line._on_left
    assert not line.watched
    if late is not None:
        late()
    await asyncio.sleep(0)


async def test_a_client_that_leaves_just_as_the_work_is_done_does_not_end_what_follows() -> None:
    """The server is still to note what was done, and to give back what was taken for it."""
    line, done = Line(), asyncio.Event()

    async def work() -> None:
        with suppress(ClientLeft):
            async with Presence(line.scope):
                await done.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    request = asyncio.create_task(work())
    while not line.watched:
        await asyncio.sleep(0)
    done.set()
    line.leave()
    await request

    assert not request.cancelling()


async def test_a_fault_is_told_though_the_client_has_left() -> None:
    """What went wrong while the work was ended is no news of a client's."""

    def fail() -> None:
        raise ValueError("broken")

    line = Line()
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(line.leave))

    with pytest.raises(ValueError, match="broken"):
        await wait_for_ever(line, fail)


@pytest.mark.parametrize("has_left", [False, True])
async def test_who_ends_the_request_itself_is_not_taken_for_its_client(has_left: bool) -> None:
    """A server that shuts down cancels the request, also one whose client has left just before."""
    line = Line()
    request = asyncio.create_task(wait_for_ever(line, lambda: None))
    while not line.watched:
        await asyncio.sleep(0)
    if has_left:
        line.leave()
    request.cancel()

    with pytest.raises(asyncio.CancelledError):
        await request
