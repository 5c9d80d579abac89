"""Servers that misbehave: what is refused, that it all reads the same, and takes neither long nor much memory."""

import asyncio
import gzip
import socket
import struct
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from gateway.config import ImagesConfig
from gateway.images import download
from gateway.images.connector import Lookup
from gateway.images.download import is_whole
from gateway.images.fetch import Fetcher
from gateway.values import Bytes, Seconds

from .conftest import Answer, Origin
from .network import BODY, PARAM, answer, assert_unreachable, redirect, refused

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def endless(head: str, piece: bytes = bytes(2**16)) -> Script:
    """Sends a head, and then the same piece for as long as somebody takes it."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode())
        while True:
            writer.write(piece)
            await writer.drain()

    return send


def trickling(start: bytes, piece: bytes = b"") -> Script:
    """Sends the start of an answer, and then a little every now and then."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            await asyncio.sleep(0.01)
            writer.write(piece)

    return send


def resetting(start: bytes) -> Script:
    """Sends the start of an answer, then breaks the connection off."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return send


GZIPPED = gzip.compress(BODY)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
PART = "206 Partial Content"
SETTINGS_OF_HTTP2 = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

FAILURES: dict[str, Answer] = {
    # statuses
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "reset content": answer(status="205 Reset Content"),
    "a part": answer(BODY, "Content-Range: bytes 0-9/1000", status=PART),
    "a part without range": answer(status=PART),
    "multiple choices": answer(b"", "Location: /ok", status="300 Multiple Choices"),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "use proxy": answer(b"", "Location: /ok", status="305 Use Proxy"),
    "switching protocols": answer(BODY, "Connection: upgrade", "Upgrade: h2c", status="101 Switching Protocols"),
    "unauthorized": answer(BODY, "WWW-Authenticate: Basic", status="401 Unauthorized"),
    "forbidden": answer(status="403 Forbidden"),
    "not found": answer(status="404 Not Found"),
    "gone": answer(status="410 Gone"),
    "too many requests": answer(status="429 Too Many Requests"),
    "server error": answer(status="500 Internal Server Error"),
    "unavailable": answer(status="503 Service Unavailable"),
    "a status that does not exist": answer(status="999 What"),
    # redirects
    "redirect to nowhere": answer(b"", status="302 Found"),
    "a loop": redirect("/"),
    "two places": answer(b"", "Location: http://[::1]/", "Location: /ok", status="302 Found"),
    # encodings
    "gzip": answer(GZIPPED, "Content-Encoding: gzip"),
    "brotli": answer(BODY, "Content-Encoding: br"),
    "zstd": answer(BODY, "Content-Encoding: zstd"),
    "deflate": answer(BODY, "Content-Encoding: deflate"),
    "gzip in gzip": answer(gzip.compress(GZIPPED), "Content-Encoding: gzip, gzip"),
    "an unknown encoding": answer(BODY, "Content-Encoding: x"),
    "a bomb": endless("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(bytes(2**24))),
    # lengths
    "ends early": answer(BODY, "Content-Length: 1000"),
    "ends early in a chunk": answer(b"ff\r\nabc", "Transfer-Encoding: chunked"),
    "ends early between chunks": answer(b"3\r\nabc\r\n", "Transfer-Encoding: chunked"),
    "bad chunk": answer(b"xyz\r\nabc\r\n", "Transfer-Encoding: chunked"),
    "negative chunk": answer(b"-3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "negative length": answer(BODY, "Content-Length: -1"),
    "length that is no number": answer(BODY, "Content-Length: many"),
    "length that is a list": answer(BODY, f"Content-Length: {len(BODY)}, {len(BODY)}"),
    "two lengths": answer(BODY, "Content-Length: 5", "Content-Length: 6"),
    "length and chunks": answer(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"),
    # connections that break off
    "reset at once": resetting(b""),
    "reset in the headers": resetting(b"HTTP/1.1 200 OK\r\nContent-"),
    "reset after the headers": resetting(HEAD),
    "reset in the body": resetting(HEAD + b"abc"),
    "reset in a chunk": resetting(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"),
    "nothing": b"",
    # other languages
    "garbage": b"\x00\x01\x02 garbage\r\n\r\n",
    "http/0.9": BODY,
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "mail": b"220 mail.example ESMTP\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "http/2": SETTINGS_OF_HTTP2,
    "an endless flood of http/2": endless("", SETTINGS_OF_HTTP2 * 1000),
    # heads
    "long status line": b"HTTP/1.1 200 " + b"O" * 2**20 + b"\r\n\r\n",
    "long header": answer(BODY, "X: " + "x" * 10_000_000),
    "many headers": answer(BODY, *["X: x"] * 100_000),
    "large headers together": answer(BODY, *[f"X-{number}: {'x' * 8000}" for number in range(9)]),
    "endless header": endless("HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
    "endless headers": endless("HTTP/1.1 200 OK\r\n", b"X: x\r\n" * 1000),
}


@pytest.mark.parametrize("cause", FAILURES)
async def test_every_failure_reads_the_same(origin: Origin, fetcher: Fetcher, cause: str) -> None:
    """Nothing about the other side can be learned from the answer: it is the same, byte for byte."""
    origin.answers |= {"/": FAILURES[cause], "/ok": answer()}
    await assert_unreachable(fetcher, origin.url("/"))


async def test_the_formats_that_are_enabled_are_asked_for_and_named(origin: Origin, config: ImagesConfig) -> None:
    """In the request, and where there is no picture."""
    async with Fetcher(replace(config, formats=("png", "bmp"))) as fetcher:
        error = await refused(fetcher, origin.url("/nowhere"))
    assert "returns a PNG or BMP;" in error.message
    assert "Accept: image/png,image/bmp,*/*;q=0.5" in origin.heads[0]


async def test_failures_to_connect_read_the_same(origin: Origin, config: ImagesConfig) -> None:
    """DNS and refused connections are no different."""

    async def no_such_name(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, f"{host} is not known")

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = replace(config, allowed_ports=(80, port), connect_timeout=Seconds(0.1))
    async with Fetcher(settings, lookup=no_such_name) as fetcher:
        await assert_unreachable(fetcher, "http://nowhere.example/")
        await assert_unreachable(fetcher, f"http://127.0.0.1:{port}/")


async def test_no_second_try_is_tried_again(origin: Origin, fetcher: Fetcher) -> None:
    """Whatever goes wrong the first time and whatever the second, there are two tries and no more."""

    async def break_then_fail(writer: asyncio.StreamWriter) -> None:
        if len(origin.heads) == 1:
            await resetting(b"")(writer)
        else:
            writer.write(answer(status="503 Service Unavailable"))

    origin.answers["/"] = break_then_fail
    await assert_unreachable(fetcher, origin.url("/"))
    assert origin.connections == 2


async def test_four_hops_are_too_many(origin: Origin, fetcher: Fetcher) -> None:
    """The fourth redirect is not followed."""
    origin.answers |= {f"/{hop}": redirect(f"/{hop + 1}") for hop in range(4)} | {"/4": answer()}
    await assert_unreachable(fetcher, origin.url("/0"))
    assert len(origin.heads) == 4


async def test_the_body_of_a_redirect_is_not_read(origin: Origin, fetcher: Fetcher) -> None:
    """However much a redirect has to say, and however it unfolds, the connection is left, not emptied."""
    origin.answers |= {
        "/": endless("HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Encoding: gzip\r\n\r\n", GZIPPED * 1000),
        "/ok": answer(),
    }
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
    assert origin.connections == 2


# --- time -----------------------------------------------------------------------------------------------------------

SLOW: dict[str, Script] = {
    "silence": trickling(b""),
    "a head that stops": trickling(b"HTTP/1.1 2"),
    "a head that trickles": trickling(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers that trickle": trickling(b"HTTP/1.1 200 OK\r\n", b"X: x\r\n"),
    "a body that stops": trickling(HEAD + b"abc"),
    "a body that trickles": trickling(HEAD, b"x"),
    "hollow chunks": trickling(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "no end of going on": trickling(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


async def test_slow_servers_meet_the_deadline(origin: Origin, config: ImagesConfig) -> None:
    """One limit of time holds for everything, whatever the server is slow with."""
    origin.answers |= {f"/{name.replace(' ', '-')}": script for name, script in SLOW.items()}
    await assert_timed_out([origin.url(path) for path in origin.answers], config)


async def test_the_deadline_spans_all_hops(origin: Origin, config: ImagesConfig) -> None:
    """A redirect buys no more time, and slow DNS costs what is left."""
    origin.answers["/"] = redirect(f"http://slow.example:{origin.port}/")

    async def never(host: str) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError(host)

    await assert_timed_out([origin.url("/")], config, never)


async def test_another_try_buys_no_more_time(origin: Origin, config: ImagesConfig) -> None:
    """What was spent on the first is gone."""

    async def fail_then_stall(writer: asyncio.StreamWriter) -> None:
        if len(origin.heads) == 1:
            writer.write(answer(status="503 Service Unavailable"))
        else:
            await asyncio.Event().wait()

    origin.answers["/"] = fail_then_stall
    await assert_timed_out([origin.url("/")], config)
    assert len(origin.heads) == 2


async def assert_timed_out(urls: list[str], config: ImagesConfig, lookup: Lookup | None = None) -> None:
    """All of them are given up when the deadline comes, not before and not long after."""
    started = time.monotonic()
    async with Fetcher(replace(config, fetch_timeout=Seconds(0.5)), lookup=lookup) as fetcher:
        await asyncio.gather(*(assert_unreachable(fetcher, url) for url in urls))
    assert 0.5 <= time.monotonic() - started < 5


async def test_a_body_keeps_to_the_least_rate(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while of grace a body that comes too slowly is given up, long before the deadline."""
    monkeypatch.setattr(download, "RATE_GRACE", 0.3)
    origin.answers |= {
        "/never-starts": trickling(HEAD),
        "/stops": trickling(HEAD + b"abc"),
        "/trickles": trickling(HEAD, b"x"),
    }
    started = time.monotonic()
    async with Fetcher(config) as fetcher:
        await asyncio.gather(*(assert_unreachable(fetcher, origin.url(path)) for path in origin.answers))
    assert time.monotonic() - started < config.fetch_timeout / 2


async def test_a_body_at_the_least_rate_is_read(
    origin: Origin, config: ImagesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come buys time for what is to come."""
    monkeypatch.setattr(download, "RATE_GRACE", 1e-3)

    async def in_two(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(1000))
        await asyncio.sleep(0.1)
        writer.write(bytes(1000))

    origin.answers["/"] = in_two
    async with Fetcher(replace(config, min_rate=Bytes(100))) as fetcher:
        assert await fetcher.fetch(origin.url("/"), param=PARAM) == bytes(2000)


# --- bytes ----------------------------------------------------------------------------------------------------------


async def test_a_body_of_the_largest_size_is_read(origin: Origin, fetcher: Fetcher, config: ImagesConfig) -> None:
    """The limit itself is allowed."""
    origin.answers["/"] = answer(bytes(config.max_bytes))
    assert len(await fetcher.fetch(origin.url("/"), param=PARAM)) == config.max_bytes


async def test_a_length_over_the_limit_is_refused_unread(origin: Origin, fetcher: Fetcher) -> None:
    """What says that it is too large is believed, before a byte of it came."""
    origin.answers["/"] = trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
    error = await refused(fetcher, origin.url("/"))
    assert error.code == "image_file_too_large"
    assert "64 KiB" in error.message


@pytest.mark.parametrize("head", ["", "Transfer-Encoding: chunked\r\n"])
async def test_endless_bodies_stop_at_the_limit(origin: Origin, fetcher: Fetcher, head: str) -> None:
    """What arrives is counted, whatever the headers said."""
    origin.answers["/"] = endless(f"HTTP/1.1 200 OK\r\n{head}\r\n", b"400\r\n" + bytes(1024) + b"\r\n")
    assert (await refused(fetcher, origin.url("/"))).code == "image_file_too_large"


async def test_more_than_was_announced_is_not_read(origin: Origin, fetcher: Fetcher) -> None:
    """The length is the end of the file. What follows at once makes it malformed; what follows later is not read."""
    left = asyncio.Event()
    send = endless(f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n", BODY * 1000)

    async def until_left(writer: asyncio.StreamWriter) -> None:
        try:
            await send(writer)
        except ConnectionError:
            left.set()

    origin.answers["/"] = until_left
    (found,) = await asyncio.gather(fetcher.fetch(origin.url("/"), param=PARAM), return_exceptions=True)
    assert found == BODY or "could not be downloaded" in str(found)
    async with asyncio.timeout(5):
        await left.wait()


async def test_an_endless_head_takes_little_memory(origin: Origin, fetcher: Fetcher) -> None:
    """It is bounded as it arrives and not when it is complete."""
    origin.answers["/"] = endless("HTTP/1.1 200 OK\r\nX: ", b"x" * 1000)
    tracemalloc.start()
    try:
        await assert_unreachable(fetcher, origin.url("/"))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


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
        ("bytes 1-9/*", 9, False),
        ("bytes 0-9/11", 10, False),
        ("bytes 0-9/10", 9, False),
        ("bytes */10", 10, False),
        ("bytes */*", 10, False),
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


@pytest.mark.parametrize("total", [str(len(BODY)), "*"])
async def test_a_partial_answer_that_is_whole_is_read(origin: Origin, fetcher: Fetcher, total: str) -> None:
    """Some servers answer 206 with everything."""
    origin.answers["/"] = answer(BODY, f"Content-Range: bytes 0-{len(BODY) - 1}/{total}", status=PART)
    assert await fetcher.fetch(origin.url("/"), param=PARAM) == BODY
