"""Downloads: what is fetched, by which ways, and in how much time what cannot be is given up."""

import asyncio
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace

from gateway.config import ImagesConfig
from gateway.images.connector import MAX_IDLE, SystemLookup
from gateway.images.fetch import Fetcher
from gateway.values import Seconds

from .conftest import Origin
from .network import BODY, PARAM, FakeDns, answer, assert_unreachable, redirect, refused

KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def hurried(config: ImagesConfig) -> ImagesConfig:
    """For tests in which nothing can be reached: dialling is soon given up."""
    return replace(config, connect_timeout=Seconds(0.2))


# --- what is fetched -------------------------------------------------------------------------------------------------


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


# --- connections -----------------------------------------------------------------------------------------------------


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


# --- what a watch tells ----------------------------------------------------------------------------------------------


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
        urls = [f"http://{host}:{port}/" for host in hosts for port in ports]
        took = await asyncio.gather(*(time_in_vain(fetcher, url) for url in urls))
    assert min(took) >= 0.2
    assert max(took) < 2


async def time_in_vain(fetcher: Fetcher, url: str) -> float:
    """Seconds until the URL is refused as one that cannot be reached."""
    started = time.monotonic()
    await assert_unreachable(fetcher, url)
    return time.monotonic() - started


# --- through a proxy -------------------------------------------------------------------------------------------------


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
