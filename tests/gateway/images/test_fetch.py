"""Downloads: what is fetched, how often, by which ways, and in how much time what cannot be is given up."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace

from gateway.config import ImagesConfig
from gateway.errors import Overloaded
from gateway.images import download, flights
from gateway.images.connector import MAX_IDLE, SystemLookup
from gateway.images.fetch import Fetcher
from gateway.values import Seconds

from .conftest import Origin
from .network import BODY, PARAM, FakeDns, answer, assert_unreachable, redirect, refused

KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


@pytest.fixture
async def fetcher(config: ImagesConfig) -> AsyncIterator[Fetcher]:
    """A fetcher that may reach the origin and nothing else on loopback."""
    async with Fetcher(config) as fetcher:
        yield fetcher


def hurried(config: ImagesConfig) -> ImagesConfig:
    """For tests in which nothing can be reached: dialling is soon given up."""
    return replace(config, connect_timeout=Seconds(0.2))


# --- what is fetched ------------------------------------------------------------------------------------------------


async def test_a_picture_is_fetched(origin: Origin, fetcher: Fetcher) -> None:
    """The bytes come as they were sent; the request says no more than it has to, and no fragment."""
    origin.answers["/a.png"] = answer()
    assert await fetcher.fetch(origin.url("/a.png?b=%41%2f&c#@127.0.0.2/"), param=PARAM) == BODY
    request, *headers = origin.heads[0].strip().split("\r\n")
    assert request == "GET /a.png?b=%41%2f&c HTTP/1.1"
    names = {header.split(":")[0].lower() for header in headers}
    assert names == {"host", "user-agent", "accept", "accept-encoding"}
    assert "Accept-Encoding: identity" in headers
    assert "Accept: image/jpeg,image/png,image/webp,image/gif,image/avif,*/*;q=0.5" in headers


@pytest.mark.parametrize(
    "label", ["text/html", "application/json", "image/svg+xml", "image/png, text/html", "image/png;\tx", ""]
)
async def test_the_label_is_not_looked_at(origin: Origin, fetcher: Fetcher, label: str) -> None:
    """Whether it is a picture, the bytes decide, later."""
    origin.answers["/"] = answer(BODY, f"Content-Type: {label}")
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_chunks_and_bodies_without_length_are_read(origin: Origin, fetcher: Fetcher) -> None:
    """HTTP's other ways to send a body."""
    origin.answers["/chunked"] = answer(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    origin.answers["/until-close"] = b"HTTP/1.1 200 OK\r\n\r\nabcde"
    origin.answers["/old"] = b"HTTP/1.0 200 OK\r\n\r\nabcde"
    for path in origin.answers:
        assert await fetcher.fetch(origin.url(path), param=PARAM) == b"abcde"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(origin: Origin, fetcher: Fetcher, status: int) -> None:
    """Three hops, absolute, relative and scheme-relative, each with a fresh request and nothing carried over."""
    origin.answers["/a/1"] = answer(b"", "Location: 2", "Set-Cookie: a=b", status=f"{status} Found")
    origin.answers["/a/2"] = redirect(f"//127.0.0.1:{origin.port}/3", status)
    origin.answers["/3"] = redirect(origin.url("/4"), status)
    origin.answers["/4"] = answer()
    assert await fetcher.fetch(origin.url("/a/1"), param=PARAM) == BODY
    assert not any("cookie" in head.lower() or "referer" in head.lower() for head in origin.heads)


async def test_names_are_resolved_once_per_hop(origin: Origin, config: ImagesConfig) -> None:
    """A name's address is asked for once, and the server hears the name."""
    dns = FakeDns({"good.example": [["127.0.0.1"]]})
    origin.answers["/"] = answer()
    async with Fetcher(config, lookup=dns) as fetcher:
        assert await fetcher.fetch(f"http://good.example:{origin.port}/", param=PARAM) == BODY
    assert dns.questions == 1
    assert f"Host: good.example:{origin.port}" in origin.heads[0]


async def test_what_is_fetched_again_is_asked_for_again(origin: Origin, fetcher: Fetcher) -> None:
    """A picture is known by its bytes and never by its URL, behind which there may be another one by now."""
    origin.answers["/"] = answer(b"one")
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == b"one"
    origin.answers["/"] = answer(b"two")
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == b"two"


async def test_the_system_is_asked_for_both_families() -> None:
    """Without a lookup of the caller's, the operating system resolves; a name without an address is an OSError."""
    lookup = SystemLookup(patience=8)
    assert await lookup("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(socket.gaierror):
        await lookup("no..name")


SLEEPY = """
import asyncio, socket, time
from gateway.images.connector import SystemLookup
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
asyncio.run(asyncio.wait_for(SystemLookup(patience=8)("slow.example"), 0.1))
"""


def test_slow_dns_does_not_hold_up_the_end() -> None:
    """A lookup that nobody waits for any more ends with the process, and not the other way round."""
    done = subprocess.run([sys.executable, "-c", SLEEPY], capture_output=True, text=True, timeout=30, check=False)
    assert "TimeoutError" in done.stderr


# --- once for all ---------------------------------------------------------------------------------------------------


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
            while fetcher._downloader._gate.bytes < 8:
                await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="Too many pictures are being downloaded"):
            await fetcher.fetch(origin.url("/"), param=PARAM)
        go_on.set()
        assert await first == b"123456789012"
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_one_host_has_a_share_of_the_downloads(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait their turn; who waits too long is told to come back, and nothing is held against the URL."""
    monkeypatch.setattr("gateway.images.fetch.MAX_DOWNLOADS_PER_HOST", 2)
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


# --- one more try ---------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone"])
async def test_what_will_not_pass_is_not_tried_again(origin: Origin, fetcher: Fetcher, status: str) -> None:
    """The server has said what it thinks of it."""
    origin.answers["/"] = answer(status=status)
    await assert_unreachable(fetcher, origin.url("/"))
    assert origin.connections == 1


# --- connections ----------------------------------------------------------------------------------------------------


async def test_connections_are_used_again(origin: Origin, config: ImagesConfig) -> None:
    """For the same scheme, host and port alone: another name for the same address is another server."""
    origin.keeps_alive = True
    origin.answers["/"] = KEPT
    dns = FakeDns({"a.example": [["127.0.0.1"]], "b.example": [["127.0.0.1"]]})
    async with Fetcher(config, lookup=dns) as fetcher:
        for _ in range(3):
            assert await fetcher.fetch(f"http://a.example:{origin.port}/", param=PARAM) == BODY
        assert (origin.connections, dns.questions) == (1, 1)
        assert await fetcher.fetch(f"http://b.example:{origin.port}/", param=PARAM) == BODY
        assert (origin.connections, dns.questions) == (2, 2)


async def test_a_connection_that_was_closed_meanwhile_is_made_again(origin: Origin, fetcher: Fetcher) -> None:
    """Servers close idle connections when they like, at the moment of the next request too."""
    origin.answers["/"] = KEPT
    for _ in range(3):
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_an_answer_before_the_question_is_not_taken_for_one(origin: Origin, fetcher: Fetcher) -> None:
    """What a server sends on an idle connection belongs to no request."""
    sent = asyncio.Event()

    async def twice(writer: asyncio.StreamWriter) -> None:
        writer.write(KEPT)
        await writer.drain()
        if len(origin.heads) == 1:
            await asyncio.sleep(0.05)
            writer.write(KEPT.replace(BODY, BODY[::-1]))
            await writer.drain()
            await asyncio.sleep(0.05)
            sent.set()

    origin.keeps_alive = True
    origin.answers["/"] = twice
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    await sent.wait()
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    assert origin.connections == 2


async def test_idle_connections_are_bounded(origin: Origin, config: ImagesConfig) -> None:
    """However many hosts there are, no more are kept than there is room for."""
    origin.keeps_alive = True
    origin.answers["/"] = KEPT
    names = [f"{number}.example" for number in range(2 * MAX_IDLE)]
    async with Fetcher(config, lookup=FakeDns({name: [["127.0.0.1"]] for name in names})) as fetcher:
        for name in names:
            await fetcher.fetch(f"http://{name}:{origin.port}/", param=PARAM)
        assert origin.connections == len(names)
        for name in names[:MAX_IDLE]:
            await fetcher.fetch(f"http://{name}:{origin.port}/", param=PARAM)
        assert origin.connections == len(names)  # the first were kept
        await fetcher.fetch(f"http://{names[-1]}:{origin.port}/", param=PARAM)
        assert origin.connections == len(names) + 1  # the last were not


# --- what a watch tells ---------------------------------------------------------------------------------------------


async def test_dialling_in_vain_takes_the_same_time_whatever_the_cause(config: ImagesConfig) -> None:
    """As long as it may take: closed, filtered and blocked ports and unknown names look alike."""
    async with AsyncExitStack() as stack:
        filtered = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        full = stack.enter_context(socket.create_connection(filtered.getsockname()))  # its queue has no room for more
        with socket.create_server(("127.0.0.1", 0)) as listener:
            closed = listener.getsockname()[1]
        ports = (closed, filtered.getsockname()[1])
        assert full.getpeername()[1] == ports[1]
        dns = FakeDns({"blocked.example": [["127.0.0.2"]], "filtered.example": [["127.0.0.1"]]})
        settings = replace(hurried(config), allowed_ports=ports)
        fetcher = await stack.enter_async_context(Fetcher(settings, lookup=dns))
        hosts = ("127.0.0.1", "blocked.example", "unknown.example", "filtered.example")
        for url in (f"http://{host}:{port}/" for host in hosts for port in ports):
            started = time.monotonic()
            await assert_unreachable(fetcher, url)
            assert 0.2 <= time.monotonic() - started < 2


# --- through a proxy ------------------------------------------------------------------------------------------------


async def test_a_proxy_is_dialled_in_place_of_all_others(origin: Origin, config: ImagesConfig) -> None:
    """It gets the URL with the name, which is not looked up here; it may stand on a private address."""
    origin.answers |= {
        "http://a.example/1": redirect("http://b.example/2"),
        "http://b.example/2": answer(),
        "http://a.example/bad": redirect("http://127.0.0.2/"),
    }
    settings = ImagesConfig(proxy=f"http://user:secret@127.0.0.1:{origin.port}")
    async with Fetcher(settings, lookup=FakeDns({})) as fetcher:
        assert await fetcher.fetch("http://a.example/1", param=PARAM) == BODY
        assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in origin.heads[0]
        assert "Host: a.example" in origin.heads[0]
        await assert_unreachable(fetcher, "http://a.example/bad")
        assert "not public" in (await refused(fetcher, "http://127.0.0.1/")).message
        assert "not public" in (await refused(fetcher, "http://localhost/")).message
    assert origin.connections == 3


async def test_a_proxy_that_refuses_reads_the_same(origin: Origin) -> None:
    """Whether it fetches or makes a tunnel."""
    origin.answers |= {
        "http://a.example/": answer(status="403 Forbidden"),
        "a.example:443": answer(status="403 Forbidden"),
    }
    settings = ImagesConfig(proxy=f"http://127.0.0.1:{origin.port}", connect_timeout=Seconds(0.3))
    async with Fetcher(settings, lookup=FakeDns({})) as fetcher:
        await assert_unreachable(fetcher, "http://a.example/")
        await assert_unreachable(fetcher, "https://a.example/")
    assert origin.heads[1].startswith("CONNECT a.example:443 ")
