"""From chunks to server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from gateway import streaming, wire
from gateway.errors import EngineFault, GatewayError
from gateway.wire import Chunk, ChunkChoice, Delta

CHUNK = Chunk(id="chatcmpl-1", created=1, model="m", choices=[ChunkChoice(index=0, delta=Delta(content="a cat"))])
NEVER = 3600.0
Chunks = AsyncGenerator[Chunk, None]


async def events(chunks: Chunks, heartbeat: float = NEVER, failures: list[GatewayError] | None = None) -> list[bytes]:
    """Every event of the stream; the failures that it tells of are added to `failures`."""
    failures = [] if failures is None else failures
    first = await streaming.opened(chunks, patience=heartbeat)
    return [event async for event in streaming.events(first, chunks, heartbeat=heartbeat, failed=failures.append)]


async def good() -> Chunks:
    """Two chunks."""
    yield CHUNK
    yield CHUNK


def failing(error: Exception, after: int) -> Callable[[], Chunks]:
    """Some chunks and then an error."""

    async def chunks() -> Chunks:
        for _ in range(after):
            yield CHUNK
        raise error

    return chunks


async def test_each_chunk_is_an_event_and_done_is_the_last() -> None:
    """A stream ends with [DONE]."""
    assert await events(good()) == [wire.event(CHUNK), wire.event(CHUNK), b"data: [DONE]\n\n"]


async def test_an_error_before_the_first_chunk_is_raised() -> None:
    """Nothing has been sent yet, so it can have a status of its own."""
    with pytest.raises(EngineFault):
        await streaming.opened(failing(EngineFault("no"), after=0)(), patience=NEVER)


async def test_an_error_in_the_middle_is_an_event_and_then_the_end() -> None:
    """The client gets the words so far, the error in OpenAI's shape, and [DONE]."""
    failures: list[GatewayError] = []
    sent = await events(failing(EngineFault("It broke."), after=1)(), failures=failures)

    assert [error.code for error in failures] == ["engine_error"]
    assert sent[0] == wire.event(CHUNK)
    assert wire.decode_error(sent[1].removeprefix(b"data: ")).error.message == "It broke."
    assert sent[2:] == [wire.DONE]


async def test_a_fault_of_ours_in_the_middle_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns that it is our fault; the log learns the rest."""
    sent = await events(failing(KeyError("secret"), after=1)())

    assert b"secret" not in b"".join(sent)
    assert sent[-1] == wire.DONE
    assert "secret" in caplog.text


async def test_silence_is_filled_with_comments() -> None:
    """While nothing comes, the connection is held open by comments, which clients skip."""
    go = asyncio.Event()

    async def slow() -> Chunks:
        await go.wait()
        yield CHUNK

    chunks = slow()
    first = await streaming.opened(chunks, patience=0.01)
    stream = streaming.events(first, chunks, heartbeat=0.01, failed=lambda _: None)
    beats = [await anext(stream), await anext(stream)]
    go.set()
    rest = [event async for event in stream]

    assert beats == [b": still working\n\n"] * 2
    assert rest[-2:] == [wire.event(CHUNK), wire.DONE]


async def test_closing_a_stream_ends_the_work_behind_it() -> None:
    """A client that leaves in the middle leaves nothing running."""
    ended = asyncio.Event()

    async def endless() -> Chunks:
        try:
            yield CHUNK
            await asyncio.Event().wait()
        finally:
            ended.set()

    failures: list[GatewayError] = []
    chunks = endless()
    stream = streaming.events(
        await streaming.opened(chunks, patience=NEVER), chunks, heartbeat=NEVER, failed=failures.append
    )
    await anext(stream)
    await stream.aclose()

    assert ended.is_set()
    assert failures == []
