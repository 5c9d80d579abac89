"""A client's connection, on a real socket: what is answered, what ends it, and what does not."""

import asyncio
from typing import Any

import pytest

from gateway.errors import MalformedRequest
from gateway.http1 import connection, exchange
from tests.gateway.http1.served import GET, answered, echo, post, refuse, serving, until

CHUNKED = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_requests_are_answered_one_after_the_other() -> None:
    """With bodies whose length is told, in chunks, and without; however the bytes are cut."""
    async with serving(echo) as served:
        client = await served.client()
        whole = await client.ask(post(5) + b"hello")
        await client.send(post(5)[:20])
        await client.send(post(5)[20:] + b"he")
        cut = await client.ask(b"llo")
        chunked = await client.ask(CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
        empty = await client.ask(b"\r\n" + GET)

    assert [told["body"] for _, _, told in (whole, cut, chunked, empty)] == ["hello", "hello", "hello", ""]
    assert all("connection" not in headers for _, headers, _ in (whole, cut, chunked, empty))


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
async def test_a_large_body_arrives_whole(size: int) -> None:
    """Though its reader takes it in pieces, and reading pauses meanwhile."""
    async with serving(echo) as served:
        _, _, told = await (await served.client()).ask(post(size) + b"x" * size)

    assert len(told["body"]) == size


async def test_an_offered_upgrade_is_not_taken_and_its_body_is_read() -> None:
    """As Java's HttpClient sends every request."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(2):
            status, headers, told = await client.ask(post(5, offer) + b"hello")
            assert (status, told["body"]) == (200, "hello")
            assert "connection" not in headers


async def test_a_client_that_waits_for_a_word_gets_it_when_its_body_is_wanted() -> None:
    """`Expect: 100-continue`: not before, not twice, and not at all when the request is refused."""
    async with serving(echo) as served:
        client = await served.client()
        await client.send(post(5, b"expect: 100-continue\r\n"))
        assert await client.reader.readexactly(len(CONTINUE)) == CONTINUE
        assert (await client.ask(b"hello"))[2]["body"] == "hello"
        assert (await client.ask(post(5, b"expect: 100-continue\r\n") + b"hello"))[2]["body"] == "hello"
    async with serving(refuse) as served:
        status, headers, _ = await (await served.client()).ask(post(5, b"expect: 100-continue\r\n"))

    assert (status, headers["connection"]) == (429, "close")


async def test_head_has_no_body_and_http_1_0_no_chunks() -> None:
    """What an old client cannot read is not sent to it; its answer ends with the connection."""

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for word in (b"one", b"two"):
            await send({"type": "http.response.body", "body": word, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(stream) as served:
        old = await served.ask(b"GET /a HTTP/1.0\r\n\r\n")
        new = await served.ask(b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head = await served.ask(b"HEAD /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert old.endswith(b"connection: close\r\n\r\nonetwo")
    assert new.endswith(b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert head.endswith(b"connection: close\r\n\r\n")


async def test_a_thousand_requests_at_once_on_one_connection_are_answered_in_order() -> None:
    """One at a time; the others wait as the bytes that they are."""
    busy = most = 0

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await echo(scope, receive, send)
        busy -= 1

    async with serving(counted) as served:
        client = await served.client()
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(1000)))
        paths = [(await client.answer())[2]["path"] for _ in range(1000)]

    assert paths == [f"/{number}" for number in range(1000)]
    assert most == 1


async def test_more_than_a_client_may_send_ahead_is_dropped_and_the_connection_closed() -> None:
    """What was asked first is answered, and that the rest was not is plain to see."""
    first = asyncio.Event()

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        await first.wait()
        await echo(scope, receive, send)

    async with serving(patient) as served:
        client = await served.client()
        await client.send(GET)
        await client.send(GET * (connection.MOST_AHEAD // len(GET) + 1))
        while served.state.total_requests == 0:
            await asyncio.sleep(0.01)
            first.set()
        status, headers, _ = await client.answer()
        rest = await client.rest()

    assert (status, headers["connection"], rest) == (200, "close", b"")


async def test_a_request_behind_a_chunked_body_is_not_mistaken_for_a_part_of_it() -> None:
    """It is not answered, the connection ends, and its client asks again."""
    async with serving(echo) as served:
        told = await served.ask(CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + post(5) + b"smugg")

    assert told.count(b"HTTP/1.1 200") == 1
    assert b"smugg" not in told


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, b"malformed_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"malformed_request"),
        (b"\x16\x03\x01\x02", 400, b"malformed_request"),
        (post(3, b"transfer-encoding: chunked\r\n"), 400, b"malformed_request"),
        (b"GET /" + b"a" * 10_000, 414, b"url_too_long"),
        (GET[:-2] + b"a: b\r\n" * 200_000 + b"\r\n", 431, b"headers_too_large"),
        (GET[:-2] + b"a: " + b"b" * 2**23, 431, b"headers_too_large"),
    ],
)
async def test_what_is_no_request_is_told_so_in_openais_shape(data: bytes, status: int, code: bytes) -> None:
    """Though the client still sends; then the connection is closed."""
    async with serving(echo) as served:
        told = await served.ask(data)

    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in head
    assert b"\r\nx-request-id: req_" in head
    assert b'"code":"%b"' % code in body


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"1\r\na" * 2,
        b"1;" + b"e" * 2**16,
        b"0\r\na: " + b"b" * 2**16,
        b"100000\r\n" + b"a" * 2**20 + b"\r\n0\r\na: " + b"b" * 2**21,
    ],
)
async def test_a_body_in_bad_chunks_is_told_to_the_application(wire: bytes) -> None:
    """It is an error of the request's, with its id and its line in the log; so is framing that outweighs the body."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(MalformedRequest):
            await echo(scope, receive, send)
        await answered(send, b"bad", status=400)

    async with serving(told) as served:
        status, headers, _ = await (await served.client()).ask(CHUNKED + wire)

    assert (status, headers["connection"]) == (400, "close")


async def test_a_refused_upload_gets_its_answer_though_it_is_still_sending() -> None:
    """A reset that overtakes the answer would make an error of the connection out of it."""
    async with serving(refuse) as served:
        client = await served.client()
        sending = asyncio.ensure_future(client.send(post(20_000_000) + b"x" * 20_000_000))
        status, headers, _ = await client.answer()
        await sending
        assert await client.rest() == b""

    assert (status, headers["connection"]) == (429, "close")


async def test_an_upload_that_goes_on_and_on_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many bytes of what nobody wants are thrown away."""
    monkeypatch.setattr(connection, "MOST_LINGERING", 2**20)
    async with serving(refuse) as served:
        client = await served.client()
        with pytest.raises(ConnectionError):
            await client.send(post(2**30) + b"x" * 2**27)


@pytest.mark.parametrize("size", [5, 100_000, connection.MOST_SKIPPED])
async def test_a_refused_request_with_a_small_body_keeps_its_connection(size: int) -> None:
    """To connect again for every try would cost both sides more than the refusal. The body is read, and no part of it
    is taken for a request.
    """
    body = GET * (size // len(GET) + 1)
    async with serving(refuse) as served:
        client = await served.client()
        for _ in range(3):
            status, headers, _ = await client.ask(post(size) + body[:size])
            assert status == 429
            assert "connection" not in headers
        assert served.state.total_requests == 3


async def test_a_refused_request_whose_body_does_not_come_does_not_keep_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was to be skipped; without it nobody knows where the next request begins."""
    monkeypatch.setattr(connection, "LINGER", 0.1)
    async with serving(refuse) as served:
        client = await served.client()
        assert (await client.ask(post(5) + b"he"))[0] == 429
        assert await client.rest() == b""


@pytest.mark.parametrize(("wanted", "size"), [(0, 200_000), (2, 2**24)])
async def test_a_body_is_not_read_before_somebody_wants_it(wanted: int, size: int) -> None:
    """A burst of uploads that will be refused must not fill the memory first, nor one that is read slowly."""
    go = asyncio.Event()

    async def later(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(wanted):
            await receive()
        await go.wait()
        await refuse(scope, receive, send)

    async with serving(later) as served:
        client = await served.client()
        sending = asyncio.ensure_future(client.send(post(size) + b"x" * size))
        await until(lambda: bool(served.state.tasks) and not served.connections[0].transport.is_reading())
        go.set()
        assert (await client.answer())[0] == 429
        await sending


async def test_what_an_application_gets_wrong_is_an_error_in_openais_shape(caplog: pytest.LogCaptureFixture) -> None:
    """An exception, no answer, and half of one; the log says which."""

    async def faulty(scope: Any, receive: Any, send: Any) -> None:
        match scope["path"]:
            case "/raises":
                raise KeyError("secret")
            case "/half":
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
            case "/splits":
                await answered_with(b"a\r\nx-injected: b")(send)

    def answered_with(value: bytes) -> Any:
        return lambda send: send({"type": "http.response.start", "status": 200, "headers": [(b"a", value)]})

    async with serving(faulty) as served:
        told = [await served.ask(GET.replace(b"/a", path)) for path in (b"/raises", b"/nothing", b"/splits", b"/half")]

    assert all(each.startswith(b"HTTP/1.1 500 ") and b'"internal_error"' in each for each in told[:3])
    assert told[3].endswith(b"half")
    assert "KeyError" in caplog.text
    assert b"secret" not in b"".join(told)
    assert b"x-injected" not in b"".join(told)


def test_every_status_has_its_line() -> None:
    """Those that nobody has registered too."""
    assert exchange._STATUS[499] == b"HTTP/1.1 499 \r\n"
