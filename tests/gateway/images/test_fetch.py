"""Downloads: what is fetched, what is refused, and that refusing dials nothing."""

import asyncio
import gzip
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from gateway.config import ImagesConfig
from gateway.errors import PictureError
from gateway.images.connector import BlockedAddressError, Connector, Guard, Lookup, SystemLookup
from gateway.images.fetch import Fetcher, UnreachableError, is_whole
from gateway.values import Seconds

from .conftest import Origin

PARAM = "messages[0].content[1].image_url.url"
UNREACHABLE = (
    f"The picture at '{PARAM}' could not be downloaded. Check that the URL is public, answers without a login and "
    "returns a JPEG, PNG, WebP or GIF; or send the picture as a base64 data URL."
)
BODY = b"\x89PNG\r\n\x1a\n, or so it says"


def answer(body: bytes = BODY, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer; its Content-Length is right unless `headers` give one."""
    lengths = (
        [] if any("ength" in header or "chunked" in header for header in headers) else [f"Content-Length: {len(body)}"]
    )
    return "\r\n".join((f"HTTP/1.1 {status}", *lengths, *headers, "", "")).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    """A redirect without a body."""
    return answer(b"", f"Location: {location}", status=f"{status} Found")


class FakeDns:
    """Answers each name with the next of its answers, the last one for ever; counts the questions."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers
        self.questions = 0

    async def __call__(self, host: str) -> list[str]:
        self.questions += 1
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
async def fetcher(config: ImagesConfig) -> AsyncIterator[Fetcher]:
    """A fetcher that may reach the origin and nothing else on loopback."""
    async with Fetcher(config) as fetcher:
        yield fetcher


async def refused(fetcher: Fetcher, url: str) -> PictureError:
    """The error with which the URL is refused."""
    with pytest.raises(PictureError) as caught:
        await fetcher.fetch(url, param=PARAM)
    assert caught.value.param == PARAM
    assert caught.value.status == 400
    return caught.value


async def assert_unreachable(fetcher: Fetcher, url: str) -> PictureError:
    """The URL is refused with the one sentence that all failures of the network share."""
    error = await refused(fetcher, url)
    assert (error.code, error.message) == ("invalid_image_url", UNREACHABLE)
    return error


# --- what is fetched ------------------------------------------------------------------------------------------------


async def test_a_picture_is_fetched(origin: Origin, fetcher: Fetcher) -> None:
    """The bytes come as they were sent; the request says no more than it has to."""
    origin.answers["/a.png"] = answer()
    assert await fetcher.fetch(origin.url("/a.png?b=%41%2f&c#d"), param=PARAM) == BODY
    request, *headers = origin.heads[0].strip().split("\r\n")
    assert request == "GET /a.png?b=%41%2f&c HTTP/1.1"
    names = {header.split(":")[0].lower() for header in headers}
    assert names == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert "Accept-Encoding: identity" in headers


@pytest.mark.parametrize("label", ["text/html", "application/json", "image/png, text/html", ""])
async def test_the_label_is_not_looked_at(origin: Origin, fetcher: Fetcher, label: str) -> None:
    """Whether it is a picture, the bytes decide, later."""
    origin.answers["/"] = answer(BODY, f"Content-Type: {label}")
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_chunks_and_bodies_without_length_are_read(origin: Origin, fetcher: Fetcher) -> None:
    """HTTP's other ways to send a body."""
    origin.answers["/chunked"] = answer(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    origin.answers["/until-close"] = b"HTTP/1.1 200 OK\r\n\r\nabcde"
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


# --- where nobody goes ----------------------------------------------------------------------------------------------


async def test_private_literals_are_refused_in_words(forbidden: Origin, fetcher: Fetcher) -> None:
    """An address that the client wrote itself is refused before anything is dialled, and the client is told."""
    for url in (forbidden.url("/"), "http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/"):
        error = await refused(fetcher, url)
        assert error.code == "invalid_image_url"
        assert (
            error.message
            == f"The URL at '{PARAM}' leads to an address that is not public; only public ones are fetched."
        )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://good.example:22/", "port"),
        ("http://user:pw@good.example/", "user name or password"),
        ("http://0x7f.1/", "numeric host"),
        ("http:127.0.0.1/", "must begin with"),
        ("http://good.example\\@127.0.0.1/", "backslash"),
    ],
)
async def test_faults_of_grammar_are_told(fetcher: Fetcher, url: str, words: str) -> None:
    """What is wrong with the URL as it stands is no secret."""
    error = await refused(fetcher, url)
    assert error.code == "invalid_image_url"
    assert words in error.message


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.2"],
        ["8.8.8.8", "10.0.0.1"],
        ["127.0.0.1", "127.0.0.2"],
        ["8.8.8.8", "::1"],
        ["fe80::1%eth0"],
        ["x"],
        [],
    ],
)
async def test_one_bad_answer_refuses_the_name(
    origin: Origin, forbidden: Origin, config: ImagesConfig, answers: list[str]
) -> None:
    """A name is dialled only if every address it has may be."""
    async with Fetcher(config, lookup=FakeDns({"mixed.example": [answers]})) as fetcher:
        for port in (origin.port, forbidden.port):
            await assert_unreachable(fetcher, f"http://mixed.example:{port}/")
    assert origin.connections == 0


async def test_rebinding_gains_nothing(origin: Origin, forbidden: Origin, config: ImagesConfig) -> None:
    """A name whose answers alternate is judged by the answer that is dialled, every time."""
    origin.answers["/"] = answer()
    dns = FakeDns({"rebind.example": [["127.0.0.1"], ["127.0.0.2"]] * 5})
    async with Fetcher(config, lookup=dns) as fetcher:
        url = f"http://rebind.example:{origin.port}/"
        for _ in range(5):
            assert await fetcher.fetch(url, param=PARAM) == BODY
            await assert_unreachable(fetcher, url.replace(str(origin.port), str(forbidden.port)))
    assert (dns.questions, origin.connections) == (10, 5)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{forbidden}/", "//127.0.0.2:{forbidden}/", "http://169.254.169.254/", "http://[::1]/",
        "http://[::ffff:127.0.0.2]:{forbidden}/", "http://[64:ff9b::7f00:2]:{forbidden}/", "http://2130706434:{forbidden}/",
        "http://0x7f000002:{forbidden}/", "http://private.example:{forbidden}/", "file:///etc/passwd",
        "http://user:pw@127.0.0.1:{origin}/ok", "http://127.0.0.1:1/", "/ok ok", "",
    ],
)  # fmt: skip
async def test_redirects_are_checked_like_urls(
    origin: Origin, forbidden: Origin, config: ImagesConfig, location: str
) -> None:
    """Each hop passes all checks again; the refusal does not say which one failed."""
    origin.answers |= {"/ok": answer(), "/": redirect(location.format(forbidden=forbidden.port, origin=origin.port))}
    async with Fetcher(config, lookup=FakeDns({"private.example": [["127.0.0.2"]]})) as fetcher:
        await assert_unreachable(fetcher, origin.url("/"))
    assert origin.connections == 1


async def test_a_redirect_to_a_private_literal_is_not_even_tried(
    origin: Origin, forbidden: Origin, fetcher: Fetcher
) -> None:
    """The hop's own check refuses it, before the guard of the sockets would."""
    origin.answers["/"] = redirect(forbidden.url("/"))
    assert isinstance((await assert_unreachable(fetcher, origin.url("/"))).__cause__, UnreachableError)


async def test_the_guard_stands_where_sockets_are_made(forbidden: Origin) -> None:
    """aiohttp asks no resolver about literal addresses: even a caller that forgot to check dials nothing."""
    async with aiohttp.ClientSession(connector=Connector(Guard(()), FakeDns({}))) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(forbidden.url("/"))


async def test_the_peer_is_checked_before_the_request_is_sent(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a connection end elsewhere than it was dialled to, it hears nothing."""

    class OnceOnly(Guard):
        def check(self, address: str) -> None:
            checked.append(address)
            if len(checked) > 1:
                raise BlockedAddressError

    checked: list[str] = []
    monkeypatch.setattr("gateway.images.fetch.Guard", OnceOnly)
    async with Fetcher(config) as fetcher:
        await assert_unreachable(fetcher, origin.url("/"))
    assert checked == ["127.0.0.1", "127.0.0.1"]
    assert origin.heads == []


async def test_proxies_of_the_environment_are_not_used(
    origin: Origin, forbidden: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would see to it that the addresses checked are not the ones dialled."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, forbidden.url("/"))
    origin.answers["/"] = answer()
    async with Fetcher(config) as fetcher:
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_the_system_is_asked_for_both_families() -> None:
    """Without a lookup of the caller's, the operating system resolves; a name without an address is an OSError."""
    lookup = SystemLookup()
    try:
        assert await lookup("127.0.0.1") == ["127.0.0.1"]
        with pytest.raises(socket.gaierror):
            await lookup("no..name")
    finally:
        lookup.close()


# --- how it can go wrong --------------------------------------------------------------------------------------------

GZIPPED = gzip.compress(BODY)
FAILURES = {
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "reset content": answer(status="205 Reset Content"),
    "a part": answer(BODY, "Content-Range: bytes 0-9/1000", status="206 Partial Content"),
    "a part without range": answer(status="206 Partial Content"),
    "multiple choices": answer(b"", "Location: /ok", status="300 Multiple Choices"),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "use proxy": answer(b"", "Location: /ok", status="305 Use Proxy"),
    "redirect to nowhere": answer(b"", status="302 Found"),
    "a loop": redirect("/"),
    "unauthorized": answer(status="401 Unauthorized"),
    "forbidden": answer(status="403 Forbidden"),
    "not found": answer(status="404 Not Found"),
    "too many requests": answer(status="429 Too Many Requests"),
    "server error": answer(status="500 Internal Server Error"),
    "unavailable": answer(status="503 Service Unavailable"),
    "gzip": answer(GZIPPED, "Content-Encoding: gzip"),
    "brotli": answer(BODY, "Content-Encoding: br"),
    "gzip in gzip": answer(gzip.compress(GZIPPED), "Content-Encoding: gzip, gzip"),
    "ends early": answer(BODY, "Content-Length: 1000"),
    "ends early in a chunk": answer(b"ff\r\nabc", "Transfer-Encoding: chunked"),
    "bad chunk": answer(b"xyz\r\nabc\r\n", "Transfer-Encoding: chunked"),
    "negative length": answer(BODY, "Content-Length: -1"),
    "length that is no number": answer(BODY, "Content-Length: many"),
    "two lengths": answer(BODY, "Content-Length: 5", "Content-Length: 6"),
    "length and chunks": answer(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"),
    "garbage": b"\x00\x01\x02 garbage\r\n\r\n",
    "http/0.9": BODY,
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "long status line": b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n",
    "long header": answer(BODY, "X: " + "x" * 100_000),
    "many headers": answer(BODY, *["X: x"] * 10_000),
}


@pytest.mark.parametrize("cause", FAILURES)
async def test_every_failure_reads_the_same(origin: Origin, fetcher: Fetcher, cause: str) -> None:
    """Nothing about the other side can be learned from the answer."""
    origin.answers |= {"/": FAILURES[cause], "/ok": answer()}
    await assert_unreachable(fetcher, origin.url("/"))


async def test_failures_to_connect_read_the_same(origin: Origin, config: ImagesConfig) -> None:
    """DNS and refused connections are no different."""

    async def no_such_name(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} is not known")

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ports = ImagesConfig(allowed_networks=config.allowed_networks, allowed_ports=(*config.allowed_ports, port))
    async with Fetcher(ports, lookup=no_such_name) as fetcher:
        await assert_unreachable(fetcher, "http://nowhere.example/")
        await assert_unreachable(fetcher, f"http://127.0.0.1:{port}/")


async def test_certificates_are_verified(config: ImagesConfig) -> None:
    """A certificate that nobody signed is refused like any failure, before the request is sent."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    async with Origin("127.0.0.1").running(context) as secure:
        ports = ImagesConfig(allowed_networks=config.allowed_networks, allowed_ports=(secure.port,))
        async with Fetcher(ports) as fetcher:
            error = await assert_unreachable(fetcher, secure.url("/").replace("http:", "https:"))
        assert isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError)
        assert secure.heads == []


async def test_four_hops_are_too_many(origin: Origin, fetcher: Fetcher) -> None:
    """The fourth redirect is not followed."""
    origin.answers |= {f"/{hop}": redirect(f"/{hop + 1}") for hop in range(4)} | {"/4": answer()}
    await assert_unreachable(fetcher, origin.url("/0"))
    assert len(origin.heads) == 4


async def test_the_body_of_a_redirect_is_not_read(origin: Origin, fetcher: Fetcher) -> None:
    """However much a redirect has to say, the connection is left, not emptied."""
    written = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /ok\r\n\r\n")
        while True:
            writer.write(bytes(2**16))
            await writer.drain()
            written += 2**16

    origin.answers |= {"/": endless, "/ok": answer()}
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    assert written < 2**26


async def reset(writer: asyncio.StreamWriter) -> None:
    """Breaks the connection off in the middle of the body."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
    await writer.drain()
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def test_a_reset_reads_the_same(origin: Origin, fetcher: Fetcher) -> None:
    """A connection that breaks off is a failed download."""
    origin.answers["/"] = reset
    await assert_unreachable(fetcher, origin.url("/"))


def stalling(start: bytes) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """Sends the start of an answer, and then never anything more."""

    async def stall(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await asyncio.Event().wait()

    return stall


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_slow_servers_meet_the_deadline(origin: Origin, config: ImagesConfig, start: bytes) -> None:
    """One limit of time holds for everything, whatever the server is slow with."""
    origin.answers["/"] = stalling(start)
    await _assert_timed_out(origin, config)


async def test_the_deadline_spans_all_hops(origin: Origin, config: ImagesConfig) -> None:
    """A redirect buys no more time, and slow DNS costs what is left."""
    origin.answers["/"] = redirect(f"http://slow.example:{origin.port}/")

    async def never(host: str) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError(host)

    await _assert_timed_out(origin, config, never)


async def _assert_timed_out(origin: Origin, config: ImagesConfig, lookup: Lookup | None = None) -> None:
    impatient = ImagesConfig(
        allowed_networks=config.allowed_networks, allowed_ports=config.allowed_ports, fetch_timeout=Seconds(0.2)
    )
    started = time.monotonic()
    async with Fetcher(impatient, lookup=lookup) as fetcher:
        await assert_unreachable(fetcher, origin.url("/"))
    assert 0.2 <= time.monotonic() - started < 5


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_a_body_of_the_largest_size_is_read(origin: Origin, fetcher: Fetcher, config: ImagesConfig) -> None:
    """The limit itself is allowed."""
    origin.answers["/"] = answer(bytes(config.max_bytes))
    assert len(await fetcher.fetch(origin.url("/"), param=PARAM)) == config.max_bytes


async def test_a_length_over_the_limit_is_refused_unread(origin: Origin, fetcher: Fetcher) -> None:
    """What says that it is too large is believed, before a byte of it came."""
    origin.answers["/"] = stalling(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
    error = await refused(fetcher, origin.url("/"))
    assert error.code == "image_file_too_large"
    assert "64 KiB" in error.message


@pytest.mark.parametrize("head", ["", "Transfer-Encoding: chunked\r\n"])
async def test_endless_bodies_stop_at_the_limit(origin: Origin, fetcher: Fetcher, head: str) -> None:
    """What arrives is counted, whatever the headers said."""

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
        while True:
            writer.write(b"400\r\n" + bytes(1024) + b"\r\n")
            await writer.drain()

    origin.answers["/"] = endless
    assert (await refused(fetcher, origin.url("/"))).code == "image_file_too_large"


async def test_an_empty_body_is_named(origin: Origin, fetcher: Fetcher) -> None:
    """Nothing is no picture, and is said so."""
    origin.answers["/"] = answer(b"")
    assert (await refused(fetcher, origin.url("/"))).code == "empty_image_file"


@pytest.mark.parametrize(
    ("content_range", "length", "whole"),
    [
        ("bytes 0-9/10", 10, True),
        ("Bytes 0-9/10", 10, True),
        ("bytes 0-9/*", 10, True),
        ("bytes 0-8/10", 9, False),
        ("bytes 1-9/10", 9, False),
        ("bytes 0-9/11", 10, False),
        ("bytes 0-9/10", 9, False),
        ("bytes */10", 10, False),
        ("bytes 0-9", 10, False),
        ("items 0-9/10", 10, False),
        ("bytes 0-0/1, 1-1/2", 1, False),
        ("bytes 0--1/0", 0, False),
        ("", 10, False),
    ],
)
def test_a_partial_answer_may_be_whole(content_range: str, length: int, whole: bool) -> None:
    """A range counts as the file only if it is all of it."""
    assert is_whole(content_range, length) is whole


async def test_a_partial_answer_that_is_whole_is_read(origin: Origin, fetcher: Fetcher) -> None:
    """Some servers answer 206 with everything."""
    origin.answers["/"] = answer(
        BODY, f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}", status="206 Partial Content"
    )
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY


async def test_giving_up_closes_the_connection(origin: Origin, fetcher: Fetcher) -> None:
    """A client that leaves takes its download with it."""
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
    task = asyncio.create_task(fetcher.fetch(origin.url("/"), param=PARAM))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await left.wait()
