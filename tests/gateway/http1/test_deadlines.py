"""When a connection ends: what a client may take for each step, who makes room, and what becomes of it at the end."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.errors import RequestTimeout
from gateway.http1 import connection
from tests.gateway.http1.served import GET, Served, answered, echo, post, serving, until


async def beginning(served: Served) -> Any:
    """A client that has sent the beginning of a head."""
    client = await served.client()
    await client.send(GET[:10])
    return client


async def test_headers_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on a new connection nor on one that has served a request; a client that says nothing is told nothing."""
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.2)
    async with serving(echo) as served:
        used = await served.client()
        await used.ask(GET)
        await used.send(GET[:10])
        answers = await asyncio.gather((await beginning(served)).rest(), used.rest(), served.ask(b""))

    assert all(told.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in told for told in answers[:2])
    assert answers[2] == b""


async def test_headers_that_trickle_have_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from the first byte, and no further byte prolongs it."""
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.2)
    async with serving(echo) as served:
        client = await served.client()
        await client.ask(GET)
        answer = asyncio.ensure_future(client.answer())
        for at in range(len(GET) - 1):
            await client.send(GET[at : at + 1])
            await asyncio.wait({answer}, timeout=0.05)
            if answer.done():
                break

    assert answer.result()[0] == 408


async def test_an_idle_connection_is_kept_for_its_time() -> None:
    """Then it is closed without a word."""
    async with serving(echo, keep_alive=0.2) as served:
        client = await served.client()
        begun = asyncio.get_running_loop().time()
        await client.ask(GET)
        assert await client.rest() == b""
        took = asyncio.get_running_loop().time() - begun

    assert took > 0.19


async def test_a_body_that_does_not_come_is_told_to_the_application() -> None:
    """It answers; what it had of the body is nothing to it."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(RequestTimeout, match="body did not arrive"):
            await echo(scope, receive, send)
        await answered(send, b"late", status=408)

    async with serving(told, body_timeout=0.1) as served:
        status, headers, _ = await (await served.client()).ask(post(5) + b"hell")

    assert (status, headers["connection"]) == (408, "close")


@pytest.mark.parametrize(("rate", "status"), [(10_000, 200), (100, 408)])
async def test_a_body_that_trickles_is_not_waited_for(rate: int, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before its time is over, for it holds a place; one that comes at a fair rate has all of its time."""
    monkeypatch.setattr(connection, "BODY_PATIENCE", 0.2)

    async def told(scope: Any, receive: Any, send: Any) -> None:
        try:
            await echo(scope, receive, send)
        except RequestTimeout:
            await answered(send, b"late", status=408)

    async with serving(told) as served:
        client = await served.client()
        await client.send(post(rate // 2))
        answer = asyncio.ensure_future(client.answer())
        for _ in range(50):
            await client.send(b"x" * (rate // 100))
            await asyncio.wait({answer}, timeout=0.01)
            if answer.done():
                break

        assert (await answer)[0] == status


@pytest.mark.parametrize("leaves", [socket.SHUT_WR, None])
async def test_a_client_that_leaves_is_told_to_the_application(leaves: int | None) -> None:
    """Whether it says so or is just gone, and whether or not it has sent all of its body."""
    told: list[str] = []

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            pass
        told.append(message["type"])
        await answered(send, b"nobody reads this")

    async with serving(waiting) as served:
        for request in (GET, post(5) + b"he"):
            client = await served.client()
            await client.send(request)
            await until(lambda: bool(served.state.tasks))
            if leaves is None:
                client.writer.transport.abort()
            else:
                client.writer.write_eof()
            await until(lambda: not served.state.tasks)
        await until(lambda: not served.connections)

    assert told == ["http.disconnect"] * 2


async def test_a_client_that_takes_nothing_of_its_answer_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would hold its place for as long as it likes; what it has not taken does not grow meanwhile."""
    monkeypatch.setattr(connection, "LONGEST_STALL", 0.3)
    sent = 0
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(departure(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
            sent += 2**16
            await asyncio.sleep(0)
        ended.set()

    async def departure(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async with serving(endless) as served:
        client = await served.client(limit=1)
        await client.send(GET)
        await ended.wait()

    assert sent < 2**25


@pytest.mark.parametrize(
    "more", [b"", b"content-length: 9\r\n", b"connection: close\r\n", b"content-length: 9999999\r\n"]
)
async def test_a_client_that_takes_a_large_answer_late_has_no_more_time_afterwards(
    monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    """Whether it is idle then, owes some of its body, or does not close its end."""
    monkeypatch.setattr(connection, "LINGER", 0.3)
    size = 2**25  # more than the system takes in our place

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await answered(send, b"x" * size)

    async with serving(large, keep_alive=0.3) as served:
        client = await served.client()
        await client.send(GET[:-2] + more + b"\r\n")
        await until(lambda: any(each.is_full for each in served.connections) and not served.state.tasks)
        assert len((await client.answer())[2]) == size
        await until(lambda: not served.connections)


async def test_at_the_limit_the_connection_that_was_idle_longest_makes_room() -> None:
    """Who has a request under way keeps its place, and when all have one, the newcomer is told to come back."""
    go = asyncio.Event()

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await echo(scope, receive, send)

    slow = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"
    async with serving(patient, max_connections=2) as served:
        first, second = await served.client(), await served.client()
        await first.send(slow)
        await second.ask(GET)
        third = await served.client()
        assert (await third.ask(GET))[0] == 200
        assert await second.rest() == b""
        await third.send(slow)
        await until(lambda: len(served.state.tasks) == 2)
        status, headers, told = await (await served.client()).answer()
        go.set()
        assert [(await each.answer())[0] for each in (first, third)] == [200, 200]

    assert (status, headers["retry-after"], told["error"]["code"]) == (429, "1", "rate_limit_exceeded")


async def test_at_the_end_answers_are_finished_and_connections_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones at once; who has just had an answer may be sending: that request is answered, and the last."""
    go = asyncio.Event()

    async def patient(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with serving(patient) as served:
        busy = await served.client()
        await busy.send(GET)
        await until(lambda: bool(served.state.tasks))
        served.shut_down()
        go.set()
        assert (await busy.answer())[1]["connection"] == "close"
        assert await busy.rest() == b""

        recent, begun = await served.client(), await served.client()
        await recent.ask(GET)
        await begun.send(GET[:10])
        served.shut_down()
        assert (await recent.ask(GET))[1]["connection"] == "close"
        assert await recent.rest() == b""

        monkeypatch.setattr(connection, "DRAIN_GRACE", 0)
        idle = await served.client()
        await idle.ask(GET)
        served.shut_down()
        assert await idle.rest() == b""
