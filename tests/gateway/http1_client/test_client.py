"""A client on real sockets: what goes out, when a connection serves again, and what ends it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from yarl import URL

from gateway import http1_client
from gateway.http1_client import BrokenOff, Client, Garbled, Response
from gateway.http1_client.connection import Connection
from gateway.http1_client.response import ENOUGH
from tests.gateway.http1_client.peers import OK, Caller, Peer, asked, first, whole
from tests.gateway.remote.servers import Clock


async def test_a_request_says_what_it_is_told_to_and_no_more(peer: Peer) -> None:
    """Its host with the port, no wish for a packed answer, the fixed headers and its own, and the body as it is."""
    client = peer.client(headers={"Authorization": "Bearer k"})
    asking = asyncio.create_task(client.post("/v1/chat", b'{"a": 1}', seconds=20, headers={"traceparent": "00-x"}))
    caller = await peer.caller()
    head, body = await caller.request()
    asking.cancel()

    assert body == b'{"a": 1}'
    assert head.decode().split("\r\n") == [
        "POST /v1/chat HTTP/1.1",
        f"Host: 127.0.0.1:{peer.port}",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Authorization: Bearer k",
        "traceparent: 00-x",
        "Content-Type: application/json",
        "Content-Length: 8",
        "",
        "",
    ]


@pytest.mark.parametrize("value", ["k\r\nx: y", "k\n", "k\0", "schlüssel→"])
def test_a_header_that_would_break_a_request_is_refused(value: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="Authorization"):
        Client.of(URL("http://127.0.0.1"), headers={"Authorization": value}, keep_alive=1)


async def test_a_connection_serves_one_request_after_the_other(peer: Peer) -> None:
    """Also after a body in chunks, and after an error; and two at once need two."""
    client = peer.client()
    caller, response = await first(client, peer, OK)
    assert await whole(response) == b"ok"
    chunked = b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n1\r\n!\r\n0\r\n\r\n"
    assert await asked(client, caller, chunked) == (404, b"no!")
    assert await asked(client, caller, OK) == (200, b"ok")
    waiting = asyncio.create_task(client.get("/", seconds=20))
    await caller.request()
    other, response = await first(client, peer, OK)
    waiting.cancel()

    assert other is not caller
    assert await whole(response) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + OK,
        OK + b"rubbish",
    ],
)
async def test_a_connection_is_closed_that_could_mix_answers_up(peer: Peer, answer: bytes) -> None:
    """Where the server says so, or where more came than was asked for: the next request has a new one."""
    client = peer.client()
    caller, response = await first(client, peer, answer)
    assert await whole(response) == b"ok"
    await caller.left()

    _, response = await first(client, peer, OK.replace(b"ok", b"no"))
    assert await whole(response) == b"no"


async def test_what_comes_unasked_is_nobodys_answer(peer: Peer) -> None:
    """A server that speaks on an idle connection loses it."""
    client = peer.client()
    caller, response = await first(client, peer, OK)
    await whole(response)
    caller.writer.write(OK)
    await caller.left()

    _, response = await first(client, peer, OK.replace(b"ok", b"no"))
    assert await whole(response) == b"no"


async def test_an_idle_connection_is_kept_for_so_long_and_no_longer(peer: Peer) -> None:
    """And without any time for it, no longer than for its request, as the server is told."""
    brief, never = peer.client(keep_alive=0.05), peer.client(keep_alive=0)
    caller, response = await first(brief, peer, OK)
    await whole(response)
    await caller.left()
    asking = asyncio.create_task(never.get("/", seconds=20))
    caller = await peer.caller()
    head, _ = await caller.request()
    caller.writer.write(OK)
    await whole(await asking)
    await caller.left()

    assert b"Connection: close\r\n" in head


async def test_a_connection_that_is_being_closed_serves_nobody(peer: Peer) -> None:
    """A closed client can be asked again."""
    client = peer.client()
    _, response = await first(client, peer, OK)
    await whole(response)
    answering = asyncio.create_task(_answered(peer))
    client.close()

    assert await whole(await client.get("/", seconds=20)) == b"ok"
    await answering


async def _answered(peer: Peer) -> None:
    await (await peer.caller()).answer(OK)


async def test_a_server_that_closes_an_idle_connection_costs_nothing(peer: Peer) -> None:
    """The next request has a new one."""
    client = peer.client()
    caller, response = await first(client, peer, OK)
    await whole(response)
    caller.writer.close()
    await caller.left()

    _, response = await first(client, peer, OK)
    assert await whole(response) == b"ok"


async def test_a_connection_that_is_closed_as_it_is_used_again_costs_a_get_nothing(peer: Peer) -> None:
    """It is asked again on a new one; a POST is not, for it may have been heard, nor what broke off on a new one."""
    client = peer.client()
    for asks in (client.get, client.post):
        caller, response = await first(client, peer, OK)
        await whole(response)
        asking = asyncio.create_task(asks("/", seconds=20))
        await caller.request()
        caller.writer.close()
        if asks == client.get:
            await (await peer.caller()).answer(OK + b"and no more on this one")
            assert await whole(await asking) == b"ok"
        else:
            with pytest.raises(BrokenOff):
                await asking
    asking = asyncio.create_task(client.get("/", seconds=20))
    (await peer.caller()).writer.close()
    with pytest.raises(BrokenOff):
        await asking

    assert peer.nobody_came


async def test_the_second_try_is_on_a_new_connection_and_in_the_time_that_is_left(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept beside the one that was closed may be closed as well: all are, where a server goes away."""
    client, times, ask, clock = peer.client(), list[float](), Connection.ask, Clock()

    def timed(connection: Connection, request: Sequence[bytes], seconds: float) -> Response:
        times.append(seconds)
        clock.ahead += 9
        return ask(connection, request, seconds)

    monkeypatch.setattr(Connection, "ask", timed)
    monkeypatch.setattr(http1_client.client, "time", clock)
    async with asyncio.TaskGroup() as group:
        kept = [group.create_task(first(client, peer, OK)) for _ in range(2)]
    for _, response in map(asyncio.Task.result, kept):
        await whole(response)
    asking = asyncio.create_task(client.get("/", seconds=20))
    closing = [asyncio.create_task(_heard_and_closed(caller)) for caller, _ in map(asyncio.Task.result, kept)]
    await (await peer.caller()).answer(OK)
    assert await whole(await asking) == b"ok"
    client.close()
    await asyncio.wait(closing)

    assert len(times) == 4
    assert times[2] == 20
    assert times[3] < 20 - 9


async def _heard_and_closed(caller: Caller) -> None:
    with suppress(asyncio.IncompleteReadError):
        await caller.request()
    caller.writer.close()


async def test_an_answer_that_comes_before_all_was_sent_is_read(peer: Peer) -> None:
    """As a refusal of a large body does; but the connection is not used again, for the rest of it is still to go."""
    client = peer.client()
    asking = asyncio.create_task(client.post("/", b"x" * 32 * 2**20, seconds=20))
    caller = await peer.caller()
    await caller.reader.readuntil(b"\r\n\r\n")
    caller.writer.write(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n")
    response = await asking

    assert (response.status, await whole(response)) == (413, b"")
    await caller.left()


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
async def test_large_bodies_arrive_whole_both_ways(peer: Peer, size: int) -> None:
    """Though its reader takes the answer in pieces, and reading pauses meanwhile."""
    client = peer.client()
    asking = asyncio.create_task(client.post("/", b"x" * size, seconds=20))
    caller = await peer.caller()
    _, body = await caller.request()
    caller.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body))

    assert await whole(await asking) == b"x" * size


async def test_no_more_is_read_than_somebody_takes(peer: Peer) -> None:
    """An endless answer that nobody reads stays with the server; then it goes on from where it stood."""
    client = peer.client()
    caller, response = await first(client, peer, b"HTTP/1.1 200 OK\r\n\r\n")
    caller.writer.write(bytes(64 * 2**20))
    while response.received <= ENOUGH:
        await asyncio.sleep(0)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert (seen := response.received) < 2 * ENOUGH
    assert len(await response.block()) == seen

    assert await response.block()
    async with response:
        pass


async def test_who_leaves_closes_the_connection(peer: Peer) -> None:
    """While waiting for the head, in the middle of the body, and when the client is closed."""
    client = peer.client()
    asking = asyncio.create_task(client.get("/", seconds=20))
    caller = await peer.caller()
    await caller.request()
    asking.cancel()
    await caller.left()
    caller, response = await first(client, peer, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok")
    async with response:
        assert await response.block() == b"ok"
    await caller.left()
    caller, response = await first(client, peer, b"HTTP/1.1 200 OK\r\n\r\nok")
    client.close()
    await caller.left()

    with pytest.raises(BrokenOff):
        await whole(response)


async def test_who_leaves_when_all_has_come_ends_nobody_elses_request(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in the one turn of the loop in which the connection has another request already."""
    client, answered, others = peer.client(), Connection.answered, list[asyncio.Task[Response]]()

    def answered_and_left(connection: Connection, *, keeps: bool) -> None:
        answered(connection, keeps=keeps)
        if not others:
            others.append(asyncio.create_task(client.post("/", seconds=20)))
            asking.cancel()

    monkeypatch.setattr(Connection, "answered", answered_and_left)
    asking = asyncio.create_task(client.get("/", seconds=20))
    caller = await peer.caller()
    await caller.answer(OK)
    with pytest.raises(asyncio.CancelledError):
        await asking
    await caller.answer(OK)

    assert await whole(await others[0]) == b"ok"


async def test_an_answer_has_its_time_and_no_more(peer: Peer) -> None:
    """Whether its head is late, or its body."""
    client = peer.client()
    asking = asyncio.create_task(client.get("/", seconds=0.05))
    caller = await peer.caller()
    with pytest.raises(TimeoutError):
        await asking
    await caller.left()
    asking = asyncio.create_task(client.get("/", seconds=0.5))
    caller = await peer.caller()
    await caller.answer(b"HTTP/1.1 200 OK\r\n\r\nok")
    with pytest.raises(TimeoutError):
        await whole(await asking)
    await caller.left()


async def test_a_connection_that_ends_is_told_by_what_has_come(peer: Peer) -> None:
    """Nothing: it broke off. A part of a head: that is no answer. A part of a body: it broke off."""
    for answer, fault in ((b"", BrokenOff), (b"HTTP/1.1 20", Garbled)):
        asking = asyncio.create_task(peer.client().get("/", seconds=20))
        caller = await peer.caller()
        await caller.answer(answer)
        caller.writer.close()
        with pytest.raises(fault):
            await asking
    caller, response = await first(peer.client(), peer, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok")
    caller.writer.close()
    with pytest.raises(BrokenOff):
        await whole(response)
