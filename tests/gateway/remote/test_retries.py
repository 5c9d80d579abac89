"""What is tried once more, on which replica, and what is not."""

import asyncio
import json

import pytest
from aiohttp import web

from gateway import remote, wire
from gateway.errors import EngineFault, EngineTimeout, EngineUnavailable, GatewayError, InvalidRequest, Overloaded
from gateway.remote import choose
from tests.gateway.remote.servers import (
    CHUNK,
    NESTED,
    Answer,
    Clock,
    Fake,
    begun_and,
    body,
    caption,
    cut,
    engine,
    free_port,
    raw,
    read,
    request,
    serving,
    status,
    well,
)


def test_the_least_busy_replica_is_chosen() -> None:
    """However often it was chosen before; and nothing is chosen where there is nothing to choose."""
    assert choose({0: 2, 1: 1, 2: 3}, last=1) == 1
    assert choose({}, last=0) is None


def test_equals_take_turns() -> None:
    """Each of three idle replicas in turn, past one that is set aside."""
    chosen, last = [], -1
    for _ in range(6):
        last = choose({0: 0, 1: 0, 3: 0}, last) or 0
        chosen.append(last)

    assert chosen == [0, 1, 3, 0, 1, 3]


async def test_requests_go_where_least_is_under_way(fake: Fake, other: Fake) -> None:
    """While one replica works on a request, all others go to the idle one."""
    fake.always = fake.waits
    async with serving(fake, other) as running:
        slow = asyncio.create_task(caption(running))
        await fake.begun.wait()
        assert [await caption(running) for _ in range(4)] == ["a cat"] * 4
        fake.go.set()
        assert await slow == "a cat"

    assert (len(fake.requests), len(other.requests)) == (1, 4)


@pytest.mark.parametrize("failure", [status(503), status(503, **{"Retry-After": "7"}), raw(b"")])
async def test_what_brought_no_answer_is_tried_once_more_elsewhere(fake: Fake, other: Fake, failure: Answer) -> None:
    """A 503 and a connection that ends before any byte are made up for by the other replica."""
    fake.always = failure
    async with serving(fake, other) as running:
        assert await caption(running) == "a cat"

    assert (len(fake.requests), len(other.requests)) == (1, 1)


async def test_a_refused_connection_is_made_up_for(fake: Fake) -> None:
    """Where nobody listens nothing was sent, and the other replica answers."""
    async with engine(f"http://127.0.0.1:{free_port()}/v1", fake.url) as running:
        assert [await caption(running) for _ in range(3)] == ["a cat"] * 3


async def test_no_client_is_sent_away_for_longer_than_it_comes_back_for(fake: Fake) -> None:
    """OpenAI's clients give up at once when told to wait for more than two minutes."""
    fake.always = status(503, **{"Retry-After": "99999"})
    async with serving(fake) as running:
        with pytest.raises(EngineUnavailable) as caught:
            await caption(running)

    assert caught.value.retry_after == 60


async def test_the_only_replica_is_tried_twice_and_no_more(fake: Fake) -> None:
    """What fails twice is told, with the time that the server asked for."""
    fake.always = status(503, **{"Retry-After": "7"})
    async with serving(fake) as running:
        with pytest.raises(EngineUnavailable) as caught:
            await caption(running)

    assert caught.value.retry_after == 7
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (status(500), EngineFault),
        (status(502), EngineFault),
        (status(401), EngineFault),
        (status(400, "Not so."), InvalidRequest),
        (status(429, "Full.", **{"Retry-After": "7"}), Overloaded),
        (status(307, Location="/v1/models"), EngineFault),
        (body("<html>"), EngineFault),
        (body(f'{{"x": {NESTED}}}'), EngineFault),
        (body('{"error": "\xff"}', encoding="latin-1"), EngineFault),
        (raw(b"HTTP/1.1 20"), EngineFault),
        (raw(b"SSH-2.0-OpenSSH\r\n\r\n"), EngineFault),
        (raw(b"HTTP/1.1 500 Oh\r\nContent-Length: 9\r\n\r\nbro"), EngineFault),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"), EngineUnavailable),
    ],
)
async def test_what_brought_an_answer_is_not_tried_again(
    fake: Fake, other: Fake, failure: Answer, error: type[GatewayError]
) -> None:
    """From the first byte on the outcome is the outcome, and words for the operator do not reach the client."""
    fake.always = failure
    async with serving(fake, other) as running:
        with pytest.raises(error) as caught:
            await caption(running)

    assert (len(fake.requests), len(other.requests)) == (1, 0)
    assert "secret" not in caught.value.message
    assert "127.0.0.1" not in caught.value.message


async def test_a_redirect_is_not_followed(fake: Fake, other: Fake) -> None:
    """Neither the request nor the key goes to where a server points."""
    fake.always = status(307, Location=f"{other.url}/chat/completions")
    async with serving(fake) as running:
        with pytest.raises(EngineFault):
            await caption(running)

    assert other.requests == []


async def test_a_second_try_has_only_the_time_that_is_left(
    fake: Fake, other: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first one broke after nearly all of a minute, the second one does not get a minute more."""
    clock = Clock()
    monkeypatch.setattr(remote, "time", clock)

    async def breaks_late(request: web.Request) -> web.StreamResponse:
        clock.ahead += 59.9
        return await raw(b"")(request)

    fake.always, other.always = breaks_late, other.waits
    async with serving(fake, other, request_timeout=60) as running, asyncio.timeout(20):
        with pytest.raises(EngineTimeout):
            await caption(running)


async def test_a_request_is_built_once_and_only_where_it_is_sent(fake: Fake, other: Fake) -> None:
    """A second try sends what was built for the first; where no replica can be used, no picture is decoded."""
    built = 0

    async def ask() -> wire.ChatRequest:
        nonlocal built
        built += 1
        return await request()()

    fake.always = status(503)
    async with serving(fake, other) as running:
        await running.complete(ask)
        assert (len(fake.requests), len(other.requests), built) == (1, 1, 1)
    fake.models_status = 503
    async with serving(fake) as running:
        with pytest.raises(EngineUnavailable):
            await running.complete(ask)
    assert built == 1


async def test_a_huge_answer_is_refused(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is whole, one endless event or a stream of small ones."""
    monkeypatch.setattr("gateway.upstream.MAX_ANSWER", 100_000)
    monkeypatch.setattr("gateway.upstream.MAX_EVENT", 100_000)
    async with serving(fake) as running:
        event = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
        fake.answers = [body("x" * 200_000), begun_and(b"x" * 200_000), begun_and(event * 1000)]
        with pytest.raises(EngineFault, match="larger than an answer can be"):
            await caption(running)
        for _ in range(2):
            with pytest.raises(EngineFault, match="larger than an answer can be"):
                await read(running)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (cut, EngineUnavailable),
        (begun_and(b""), EngineUnavailable),
        (begun_and(b'data: {"error": {"message": "secret"}}\n\n'), EngineFault),
        (begun_and(b"data: garbage\n\n"), EngineFault),
        (begun_and(f'data: {{"x": {NESTED}}}\n\n'.encode()), EngineFault),
        (begun_and(b'data: {"choices": [{"del'), EngineUnavailable),
    ],
)
async def test_a_stream_that_breaks_is_an_error_and_a_failure(
    fake: Fake, failure: Answer, error: type[GatewayError], caplog: pytest.LogCaptureFixture
) -> None:
    """What has begun is not begun again; the fifth time the replica is left alone."""
    fake.always = failure
    async with serving(fake) as running:
        for _ in range(5):
            with pytest.raises(error) as caught:
                await read(running)
            assert "secret" not in caught.value.message
        with pytest.raises(EngineUnavailable, match="too many failures"):
            await read(running)

    assert len(fake.requests) == 5
    assert "fails too often" in caplog.text


async def test_a_tenth_of_the_requests_may_be_tried_again_and_ten_more(fake: Fake) -> None:
    """Of sixty requests every second wants a second try, and sixteen get it."""
    fake.answers = [status(503), well, well] * 60
    refused = 0
    async with serving(fake) as running:
        for _ in range(60):
            try:
                await caption(running)
            except EngineUnavailable:
                refused += 1

    assert refused > 0
    assert 60 < len(fake.requests) <= 60 + 10 + 6
