"""What is made of a server's bytes, however they are cut."""

import asyncio
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1_client import BrokenOff, Garbled, Response, TransferError
from gateway.http1_client.response import MAX_HEAD
from tests.gateway.http1_client.peers import whole

CHUNKED = b"Transfer-Encoding: chunked\r\n"
PADDED = b"Connection: close\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked \r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n"
ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "chunks": (
        b"HTTP/1.1 500 Oh\r\nretry-after: 7\r\n" + CHUNKED + b"\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n",
        500,
        b"hello",
        True,
    ),
    "padded": (
        b"HTTP/1.1 200 OK\r\nRetry-After: 7 \t\r\n" + PADDED + b"\r\n5\r\nhello\r\n0\r\n\r\n",
        200,
        b"hello",
        False,
    ),
    "early": (EARLY + b"HTTP/1.1 200 OK\r\nRETRY-AFTER: 7\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "nothing": (b"HTTP/1.1 204 No Content\r\nRetry-After: 7\r\n\r\n", 204, b"", True),
    "to the end": (b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\n\r\nhello", 200, b"hello", False),
    "old": (b"HTTP/1.0 200 OK\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
}
NO_ANSWERS = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n",
    "no chunk": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\nzz\r\n",
    "another protocol from now on": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "a large head": b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD,
    "a large end": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n0\r\nA: " + b"x" * MAX_HEAD,
    "many heads": EARLY * (MAX_HEAD // len(EARLY) + 1),
}


class Line:
    """A connection, as a response sees it."""

    def __init__(self) -> None:
        self.keeps: bool | None = None
        self.is_aborted = False

    def pause_reading(self) -> None:
        """Nothing is ever so large here."""

    def resume_reading(self) -> None:
        """So it need not go on."""

    def answered(self, *, keeps: bool) -> None:
        """Notes it."""
        self.keeps = keeps

    def abort(self) -> None:
        """Notes it."""
        self.is_aborted = True


async def _read(data: bytes, cuts: list[int], *, in_order: bool = True) -> tuple[Response, bytes, Line]:
    line = Line()
    response = Response(line, asyncio.get_running_loop())
    reading = asyncio.create_task(_all_of(response))
    await asyncio.sleep(0)
    _arrive(response, data, cuts)
    if not line.is_aborted:
        response.ended(in_order=in_order)
    return response, await reading, line


def _arrive(response: Response, data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(edges):
        if data[begin:end]:
            response.arrived(data[begin:end])


async def _all_of(response: Response) -> bytes:
    return await whole(await response.begun())


@pytest.mark.parametrize("kind", ANSWERS)
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_an_answer_is_the_same_however_it_is_cut(kind: str, cuts: list[int]) -> None:
    """Its status, headers and body, and whether its connection can serve again."""
    data, status, body, keeps = ANSWERS[kind]
    response, read, line = asyncio.run(_read(data, cuts))

    assert (response.status, read, response.received) == (status, body, len(body))
    assert (response.header(b"retry-after"), response.header(b"a")) == ("7", None)
    assert (line.keeps or False) == keeps


@pytest.mark.parametrize("kind", NO_ANSWERS)
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_what_is_no_answer_is_an_error_however_it_is_cut(kind: str, cuts: list[int]) -> None:
    """And its connection is closed at once."""

    async def refused() -> None:
        response = Response(line := Line(), asyncio.get_running_loop())
        _arrive(response, NO_ANSWERS[kind], cuts)
        assert line.is_aborted
        with pytest.raises(Garbled):
            await _all_of(response)

    asyncio.run(refused())


@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]))
def test_whatever_a_server_sends_the_end_is_known(data: bytes, start: bytes) -> None:
    """An answer, or one of our errors, and nothing else."""

    async def tried() -> None:
        with suppress(TransferError):
            await _read(start + data, [len(start)])

    asyncio.run(tried())


@pytest.mark.parametrize("kind", ["length", "chunks", "padded"])
@given(missing=st.integers(1, 5))  # which is less than the body, or than the last chunk with its end
def test_an_answer_that_stops_early_is_none(kind: str, missing: int) -> None:
    """However few of its bytes are missing."""

    async def broken() -> None:
        with pytest.raises(BrokenOff):
            await _read(ANSWERS[kind][0][:-missing], [])

    asyncio.run(broken())


def test_a_reset_is_no_end() -> None:
    """Of an answer that lasts for as long as its connection, nobody knows then whether all of it has come."""

    async def broken() -> None:
        with pytest.raises(BrokenOff):
            await _read(ANSWERS["to the end"][0], [], in_order=False)

    asyncio.run(broken())
