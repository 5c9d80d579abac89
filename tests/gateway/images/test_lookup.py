"""Names whose lookup takes long: they hold up neither other names nor the memory of what has failed."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from gateway.config import ImagesConfig
from gateway.errors import Overloaded
from gateway.images import connector
from gateway.images.connector import MAX_LOOKUPS, SystemLookup
from gateway.images.fetch import Fetcher
from gateway.images.places import NoPlaceError, for_team
from gateway.values import Seconds

from .conftest import Origin
from .network import BODY, PARAM, answer, assert_unreachable


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names that end with ".slow" are unknown, and looked up until this is set; all others are 127.0.0.1."""
    over = threading.Event()

    def look_up(host: bytes, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host.endswith(b".slow"):
            over.wait()
            raise socket.gaierror
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield over
    over.set()


async def test_a_slow_domain_leaves_lookups_to_others(origin: Origin, config: ImagesConfig) -> None:
    """It has a part of them; who does not get one is told to come back, for that is no failure of the name."""
    for_team.set("one")
    origin.answers["/"] = answer()
    async with Fetcher(replace(config, connect_timeout=Seconds(0.2))) as fetcher:
        urls = [f"http://{at}.one.slow:{origin.port}/" for at in range(8)]  # which is a domain's part
        await asyncio.gather(*(assert_unreachable(fetcher, url) for url in urls))
        for _ in range(2):
            with pytest.raises(Overloaded):
                await fetcher.fetch(f"http://last.one.slow:{origin.port}/", param=PARAM)
        assert await fetcher.fetch(f"http://good.example:{origin.port}/", param=PARAM) == BODY


async def test_many_slow_domains_leave_lookups_to_others() -> None:
    """Not just one: and what a team's many take is not all, either."""
    for_team.set("one")
    lookup = SystemLookup(patience=0.01)
    hosts = [f"{number}.{letter}.slow" for letter in "abcdefghijkl" for number in range(20)]
    slow = [asyncio.create_task(lookup(host)) for host in hosts]
    async with asyncio.timeout(30):
        while sum(not task.done() for task in slow) > MAX_LOOKUPS // 2 or lookup._places._line:
            await asyncio.sleep(0.001)
    waiting = [task for task in slow if not task.done()]
    assert {type(task.exception()) for task in slow if task.done()} == {NoPlaceError}
    assert len(waiting) >= 12
    assert await lookup("good.example") == ["127.0.0.1"]
    for_team.set("another")
    assert await lookup("good.example") == ["127.0.0.1"]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_place_comes_back_with_the_end_of_its_lookup(
    slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when its client leaves, for its thread goes on."""
    for_team.set("one")
    monkeypatch.setattr(connector, "MAX_LOOKUPS", 4)
    lookup = SystemLookup(patience=0.1)
    for domain in ("one", "two"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lookup(f"a.{domain}.slow"), 0.05)
    with pytest.raises(NoPlaceError):
        await lookup("good.example")
    slow.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await lookup("good.example") == ["127.0.0.1"]
            except NoPlaceError:
                continue
            return


async def test_a_machine_without_another_thread_is_busy(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as too much to do, is not held against the name, and no place is lost."""
    origin.answers["/"] = answer()
    url = f"http://good.example:{origin.port}/"

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with Fetcher(config) as fetcher:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", none_left)
            for _ in range(MAX_LOOKUPS):
                with pytest.raises(Overloaded):
                    await fetcher.fetch(url, param=PARAM)
        assert await fetcher.fetch(url, param=PARAM) == BODY
