"""How often a picture is downloaded: once for all who ask, twice where a fault may pass, and each host in its turn."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.config import ImagesConfig
from gateway.errors import Overloaded
from gateway.images import download, flights
from gateway.images.fetch import MAX_DOWNLOADS, PATIENCE, Fetcher
from gateway.images.places import for_team

from .conftest import Origin
from .network import BODY, PARAM, FakeDns, answer, assert_unreachable, redirect, refused


async def test_a_thousand_requests_for_a_dead_url_make_one_connection(origin: Origin, fetcher: Fetcher) -> None:
    """They share it, and those who come a little later are told what is remembered."""
    origin.answers["/"] = answer(status="404 Not Found")
    urls = [origin.url("/")] * 500
    await asyncio.gather(*(assert_unreachable(fetcher, url) for url in urls))
    await asyncio.gather(*(assert_unreachable(fetcher, url) for url in urls))
    assert origin.connections == 1


async def test_a_thousand_requests_for_a_broken_server_make_two_connections(origin: Origin, fetcher: Fetcher) -> None:
    """What may pass is tried once more for all of them together."""
    origin.answers["/"] = answer(status="503 Service Unavailable")
    await asyncio.gather(*(assert_unreachable(fetcher, origin.url("/")) for _ in range(1000)))
    assert origin.connections == 2


async def test_a_failure_is_forgotten_in_time(
    origin: Origin, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute at the latest it is tried again."""
    monkeypatch.setattr(flights, "SHORTEST_MEMORY", 0.0)
    monkeypatch.setattr(flights, "LONGEST_MEMORY", 0.0)
    origin.answers["/"] = answer(status="404 Not Found")
    await assert_unreachable(fetcher, origin.url("/"))
    origin.answers["/"] = answer()
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_only_what_the_network_did_is_remembered(origin: Origin, fetcher: Fetcher, config: ImagesConfig) -> None:
    """An empty or too large file is a fact about a file that may have changed."""
    for body in (b"", bytes(config.max_bytes + 1)):
        origin.answers["/"] = answer(body)
        await refused(fetcher, origin.url("/"))
        origin.answers["/"] = answer()
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_requests_for_one_url_share_its_download(origin: Origin, fetcher: Fetcher) -> None:
    """Also when the one that began it leaves, and each is told of its own place in its own request."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        reached.set()
        await go.wait()
        writer.write(answer(b""))

    origin.answers["/"] = wait
    first, *others = [
        asyncio.create_task(fetcher.fetch(origin.url(f"/#{number}"), param=f"messages[{number}]"))
        for number in range(3)
    ]
    await reached.wait()
    first.cancel()
    go.set()
    errors = await asyncio.gather(*others, return_exceptions=True)
    assert [getattr(error, "param", None) for error in errors] == ["messages[1]", "messages[2]"]
    assert origin.connections == 1


async def test_giving_up_closes_the_connection(origin: Origin, fetcher: Fetcher) -> None:
    """The last client that leaves takes the download with it, and the next one begins anew."""
    reached, left = asyncio.Event(), asyncio.Event()

    async def stall(writer: asyncio.StreamWriter) -> None:
        reached.set()
        try:
            while True:
                writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                await writer.drain()
        except ConnectionError:
            left.set()

    origin.answers["/"] = stall
    tasks = [asyncio.create_task(fetcher.fetch(origin.url("/"), param=PARAM)) for _ in range(2)]
    await reached.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    origin.answers["/"] = answer()
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    async with asyncio.timeout(5):
        await left.wait()


async def test_bodies_under_way_are_bounded_together(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alone always comes; another for which there is no memory left is told to come back, and can at once."""
    monkeypatch.setattr(download, "MAX_UNDER_WAY", 10)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n12345678")
        begun.set()
        await go_on.wait()
        writer.write(b"9012")

    origin.answers["/slow"], origin.answers["/"] = slow, answer()
    async with Fetcher(config) as fetcher:
        first = asyncio.create_task(fetcher.fetch(origin.url("/slow"), param=PARAM))
        await begun.wait()
        async with asyncio.timeout(30):
            while fetcher._downloader._room.left > 2:
                await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="Too many pictures are being downloaded"):
            await fetcher.fetch(origin.url("/"), param=PARAM)
        go_on.set()
        assert await first == b"123456789012"
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_large_slow_bodies_leave_memory_to_other_teams(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team has as much as is left, and is told to come back for more; another has its picture meanwhile."""
    monkeypatch.setattr(download, "MAX_UNDER_WAY", 5 * len(BODY))
    go_on = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(answer()[:-1])
        await go_on.wait()
        writer.write(BODY[-1:])

    origin.answers |= {f"/slow{number}": slow for number in range(3)} | {"/": answer()}
    async with Fetcher(config) as fetcher:
        for_team.set("greedy")
        urls = [origin.url(f"/slow{number}") for number in range(3)]
        tasks = [asyncio.create_task(fetcher.fetch(url, param=PARAM)) for url in urls]
        (refused_one,), others = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(Overloaded, match="Too many pictures are being downloaded"):
            await refused_one
        for_team.set("another")
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
        go_on.set()
        assert await asyncio.gather(*others) == [BODY] * 2

    assert fetcher._downloader._room.left == 5 * len(BODY)


async def test_teams_share_no_download(origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose team has no place is told to come back, and another who asks for the same is not."""
    monkeypatch.setattr("gateway.images.fetch.MAX_DOWNLOADS", 4)
    monkeypatch.setattr("gateway.images.fetch.PATIENCE", 10.0)
    go = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer())

    origin.answers |= {"/slow": wait, "/": answer()}
    async with Fetcher(config) as fetcher:
        for_team.set("busy")
        busy = [asyncio.create_task(fetcher.fetch(origin.url(path), param=PARAM)) for path in ("/slow", "/")]
        async with asyncio.timeout(30):
            while not fetcher._places._line:
                await asyncio.sleep(0.001)
        for_team.set("another")
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
        assert not any(task.done() for task in busy)
        go.set()
        assert await asyncio.gather(*busy) == [BODY] * 2


async def test_many_slow_hosts_leave_downloads_to_others(origin: Origin, config: ImagesConfig) -> None:
    """However many hosts do not answer: a good one is asked at once, for the same team and for another."""
    for_team.set("one")
    go = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer())

    origin.answers |= {"/slow": wait, "/": answer()}
    hosts = [f"{number}.slow{number % 8}.example" for number in range(200)]
    dns = FakeDns({host: [["127.0.0.1"]] for host in (*hosts, "good.example")})
    async with Fetcher(config, lookup=dns) as fetcher:
        urls = [f"http://{host}:{origin.port}/slow" for host in hosts]
        slow = [asyncio.create_task(fetcher.fetch(url, param=PARAM)) for url in urls]
        async with asyncio.timeout(30):
            while MAX_DOWNLOADS - fetcher._places.left + len(fetcher._places._line) < len(slow):
                await asyncio.sleep(0.001)
        assert fetcher._places._line
        for team, path in (("one", "/"), ("another", "/?")):
            for_team.set(team)
            async with asyncio.timeout(PATIENCE / 2):
                assert await fetcher.fetch(f"http://good.example:{origin.port}{path}", param=PARAM) == BODY
        go.set()
        assert await asyncio.gather(*slow) == [BODY] * 200
        assert fetcher._places.left == MAX_DOWNLOADS


async def test_one_host_has_a_share_of_the_downloads(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait their turn; who waits too long is told to come back, and nothing is held against the URL."""
    for_team.set("one")
    monkeypatch.setattr("gateway.images.fetch.MAX_DOWNLOADS", 19)  # of which a domain may have two
    monkeypatch.setattr("gateway.images.fetch.PATIENCE", 0.1)
    go = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(answer())

    origin.answers |= {"/slow": wait, "/": answer()}
    urls = [f"http://slow.example:{origin.port}/slow?{number}" for number in range(3)]
    async with Fetcher(config, lookup=FakeDns({"slow.example": [["127.0.0.1"]]})) as fetcher:
        slow = [asyncio.create_task(fetcher.fetch(url, param=PARAM)) for url in urls]
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
        with pytest.raises(Overloaded, match="Too many pictures are being downloaded"):
            await slow[2]
        go.set()
        assert await asyncio.gather(*slow[:2]) == [BODY, BODY]
        assert await fetcher.fetch(urls[2], param=PARAM) == BODY


# --- one more try ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "503 Service Unavailable"])
async def test_what_may_pass_is_tried_once_more(origin: Origin, fetcher: Fetcher, status: str) -> None:
    """An overloaded server gets a second chance, and no third."""

    async def recover(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(status=status) if len(origin.heads) == 1 else answer())

    origin.answers |= {"/": recover, "/broken": answer(status=status)}
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    assert len(origin.heads) == 2
    await assert_unreachable(fetcher, origin.url("/broken"))
    assert len(origin.heads) == 4


async def test_a_server_that_closes_after_each_answer_is_followed(origin: Origin, fetcher: Fetcher) -> None:
    """Without a word of it, as small servers do: the redirect's connection is gone when it is used again."""
    origin.answers["/"] = b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    origin.answers["/b"] = answer()
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_a_second_try_does_not_go_all_the_way_again(origin: Origin, fetcher: Fetcher) -> None:
    """Only what failed is asked once more, in all of a download once."""

    def failing(times: int) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
        answers = iter([answer(status="503 Service Unavailable")] * times + [answer()])

        async def send(writer: asyncio.StreamWriter) -> None:
            writer.write(next(answers))

        return send

    origin.answers |= {"/": redirect("/b"), "/b": redirect("/c"), "/c": failing(1)}
    origin.answers |= {"/d": redirect("/e"), "/e": failing(2)}
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    assert [head.split(" ")[1] for head in origin.heads] == ["/", "/b", "/c", "/c"]
    await assert_unreachable(fetcher, origin.url("/d"))
    assert [head.split(" ")[1] for head in origin.heads[4:]] == ["/d", "/e", "/e"]


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone"])
async def test_what_will_not_pass_is_not_tried_again(origin: Origin, fetcher: Fetcher, status: str) -> None:
    """The server has said what it thinks of it."""
    origin.answers["/"] = answer(status=status)
    await assert_unreachable(fetcher, origin.url("/"))
    assert origin.connections == 1
