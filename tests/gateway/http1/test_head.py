"""What is read as a request, and what is refused: wherever two servers might disagree on where it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, HeadersTooLarge, MalformedRequest, UrlTooLong
from gateway.http1.head import MAX_HEAD, MAX_HEADERS, MAX_TARGET, Head, read


def head(data: bytes) -> Head:
    """The head of a request that is all there."""
    found = read(data)
    assert found is not None
    assert found[1] == data.index(b"\r\n\r\n") + 4
    return found[0]


def get(*lines: bytes, target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    """A request with those header lines."""
    return b"".join((b"GET ", target, b" HTTP/", version, b"\r\n", *(line + b"\r\n" for line in lines), b"\r\n"))


def test_what_was_asked_is_what_asgi_wants_to_know() -> None:
    """Names are in lower case, values without the spaces around them; the path is decoded, and given as it was too."""
    scope = head(get(b"Host: x", b"X-A:\t b c \t", target=b"/a%20b?c=%20")).scope()

    assert (scope["method"], scope["path"], scope["raw_path"], scope["query_string"]) == (
        "GET", "/a b", b"/a%20b", b"c=%20",
    )  # fmt: skip
    assert scope["headers"] == [(b"host", b"x"), (b"x-a", b"b c")]
    assert scope["http_version"] == "1.1"


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://h/p", "/p"), (b"HTTPS://h:1/p", "/p"), (b"http://h", "/"), (b"http://h?q", "/"), (b"*", "*")],
)
def test_a_target_may_name_the_server_too(target: bytes, path: str) -> None:
    """Clients of proxies write it so, and every server has to read it (RFC 9112, 3.2.2)."""
    assert head(get(b"Host: x", target=target)).scope()["path"] == path


@pytest.mark.parametrize(
    ("lines", "length", "keeps"),
    [
        ([b"Host: x"], 0, True),
        ([b"Host: x", b"Content-Length: 5 "], 5, True),
        ([b"Host: x", b"Transfer-Encoding: Chunked"], None, True),
        ([b"Host: x", b"Connection: close"], 0, False),
        ([b"Host: x", b"Connection: keep-alive, Close"], 0, False),
        ([b"Host:"], 0, True),
    ],
)
def test_it_is_told_how_long_the_body_is_and_whether_more_follows(
    lines: list[bytes], length: int | None, keeps: bool
) -> None:
    """No length at all is no body."""
    read_head = head(get(*lines))

    assert (read_head.length, read_head.keeps) == (length, keeps)
    assert read_head.ended == (length == 0)


def test_a_client_of_http_1_0_may_leave_out_its_host_and_is_not_kept() -> None:
    """Not even if it asks to be: its answers may have to end with the connection."""
    assert head(get(version=b"1.0")).keeps is False
    assert head(get(b"Connection: keep-alive", version=b"1.0")).keeps is False


@pytest.mark.parametrize("offer", [b"h2c", b"websocket", b"TLS/1.0", b"h2c\r\nUPGRADE: x"])
def test_an_upgrade_is_not_taken_and_the_request_stays_whole(offer: bytes) -> None:
    """Java's HttpClient offers one with every request, also with those that have a body."""
    offering = head(get(b"Host: x", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + offer, b"Content-Length: 3"))

    assert (offering.length, offering.ended) == (3, False)
    assert offering.keeps


@pytest.mark.parametrize(
    "data",
    [
        get(),
        get(b"Host: x", b"Host: x"),
        get(b"Host: x", b"Host: y"),
        get(b"Host: x/y"),
        get(b"Host: x?y"),
        get(b"Host: x#y"),
        get(b"Host: x y"),
        get(b"Host: x@y"),
        get(b"Host: \xe9"),
        get(b"Host : x"),
        get(b" Host: x"),
        get(b"Host: x", b" folded"),
        get(b"Host: x", b"A: b", b"\tfolded"),
        get(b"Host: x", b": b"),
        get(b"Host: x", b"A\0: b"),
        get(b"Host: x", b"A: b\0c"),
        get(b"Host: x", b"A: b\x0bc"),
        get(b"Host: x", b"A: b\rC: d"),
        get(b"Host: x", b"A: b\nC: d"),
        get(b"Host: x", b"A(: b"),
        get(b"Host: x", b"A\xe9: b"),
        get(b"Host: x", b"no colon"),
        get(b"Host: x", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        get(b"Host: x", b"Transfer-Encoding: chunked", b"Content-Length: 3"),
        get(b"Host: x", b"Content-Length: 3", b"Content-Length: 4"),
        get(b"Host: x", b"Content-Length: 3", b"Content-Length: 3"),
        get(b"Host: x", b"Content-Length: 3, 3"),
        get(b"Host: x", b"Content-Length: +3"),
        get(b"Host: x", b"Content-Length: -3"),
        get(b"Host: x", b"Content-Length: 0x3"),
        get(b"Host: x", b"Content-Length: 3 3"),
        get(b"Host: x", b"Content-Length: 3.0"),
        get(b"Host: x", b"Content-Length:"),
        get(b"Host: x", b"Content-Length: 99999999999999999999"),
        get(b"Host: x", b"Transfer-Encoding: gzip"),
        get(b"Host: x", b"Transfer-Encoding: gzip, chunked"),
        get(b"Host: x", b"Transfer-Encoding: chunked, gzip"),
        get(b"Host: x", b"Transfer-Encoding: xchunked"),
        get(b"Host: x", b"Transfer-Encoding: identity"),
        get(b"Host: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        get(b"Host: x", b"Transfer-Encoding: \x0bchunked"),
        get(b"Host: x", b"Transfer-Encoding: chunked", version=b"1.0"),
        get(b"Host: x", version=b"0.9"),
        get(b"Host: x", version=b"1.2"),
        get(b"Host: x", version=b"2.0"),
        get(b"Host: x", target=b"no-slash"),
        get(b"Host: x", target=b"/\xe9"),
        get(b"Host: x", target=b"/\x01"),
        get(b"Host: x", target=b"/a /b"),
        get(b"Host: x", target=b""),
        get(b"Host: x").replace(b"GET ", b"GET  "),
        get(b"Host: x").replace(b"GET", b"get"),
        get(b"Host: x").replace(b"GET", b"GE\0T"),
        get(b"Host: x").replace(b"\r\n", b"\n"),
        b"GET /\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"DESCRIBE / RTSP/1.0\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\1\0",
        b"GET / HTTP/1.1\nHost",
    ],
)
def test_what_is_malformed_or_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    """At once, and nothing of it is repeated."""
    with pytest.raises(MalformedRequest) as refused:
        read(data)

    assert "\n" not in refused.value.message
    assert refused.value.status == 400


def test_what_is_too_large_is_refused_as_soon_as_that_is_known() -> None:
    """The number of headers, their size and the length of the URL have bounds, whether or not the head has ended."""
    many, long = get(b"Host: x", *[b"A: b"] * MAX_HEADERS), get(b"Host: x", b"A: " + b"b" * MAX_HEAD)
    far = get(b"Host: x", target=b"/" + b"a" * MAX_TARGET)

    assert len(head(get(b"Host: x", *[b"A: b"] * (MAX_HEADERS - 1))).headers) == MAX_HEADERS
    for data, error in ((many, HeadersTooLarge), (long, HeadersTooLarge), (far, UrlTooLong)):
        with pytest.raises(error):
            read(data)
    with pytest.raises(HeadersTooLarge):
        read(long[:MAX_HEAD])
    with pytest.raises(UrlTooLong):
        read(far[: MAX_TARGET + 1])


def test_a_head_that_is_not_all_there_is_none_yet() -> None:
    """Wherever it is cut."""
    whole = get(b"Host: x", b"A: b")

    assert all(read(whole[:cut]) is None for cut in range(1, len(whole)))


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_a_body_in_chunks_is_read_however_it_is_cut(pieces: list[bytes]) -> None:
    """Its bytes are those that were sent, and its end is known."""
    sent = [piece for piece in pieces if piece]
    wire = b"".join(b"%x;e=1\r\n%b\r\n" % (len(piece), piece) for piece in sent) + b"0\r\nX-Late: 1\r\n\r\n"
    chunked = head(get(b"Host: x", b"Transfer-Encoding: chunked"))
    seen = chunked.scope()["headers"]

    read_body = b"".join(chunked.chunks(wire[at : at + 1]) for at in range(len(wire)))

    assert read_body == b"".join(sent)
    assert chunked.ended
    assert len(seen) == 2  # what comes behind a body is no header of the request


def test_what_stands_behind_a_chunked_body_is_not_taken_for_a_part_of_it() -> None:
    """It is only noted that there was something."""
    chunked = head(get(b"Host: x", b"Transfer-Encoding: chunked"))
    smuggled = b"POST /b HTTP/1.1\r\nhost: y\r\ncontent-length: 3\r\n\r\nxyz"

    assert chunked.chunks(b"3\r\nabc\r\n0\r\n\r\n" + smuggled) == b"abc"
    assert (chunked.ended, chunked.followed) == (True, True)


@pytest.mark.parametrize("wire", [b"-3\r\n", b"3\n", b"3 \r\n", b"x\r\n", b"3\r\nabcd", b"1" + b"0" * 17 + b"\r\n"])
def test_chunks_that_are_none_are_refused(wire: bytes) -> None:
    """A sloppy reader of chunks finds other requests in them than a strict one."""
    with pytest.raises(MalformedRequest):
        head(get(b"Host: x", b"Transfer-Encoding: chunked")).chunks(wire)


@given(st.binary(max_size=400))
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    """Whatever comes, it is a request, the beginning of one, or an error that has a status."""
    try:
        read(data)
    except GatewayError as error:
        assert 400 <= error.status < 500  # noqa: PT017 - not every input is refused
