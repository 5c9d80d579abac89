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


async def told(chunks: Chunks, heartbeat: float = NEVER, failures: list[GatewayError] | None = None) -> list[bytes]:
    """All that is sent of the stream; the failures that it tells of are added to `failures`."""
    failures, sent = [] if failures is None else failures, list[bytes]()

    async def send(piece: bytes) -> None:
        sent.append(piece)

    await streaming.tell(chunks, send, heartbeat=heartbeat, failed=failures.append)
    return sent


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


async def test_each_chunk_is_an_event() -> None:
    """They come in their order."""
    assert await told(good()) == [wire.event(CHUNK), wire.event(CHUNK)]


async def test_an_error_before_the_first_chunk_is_raised() -> None:
    """Nothing has been sent yet, so it can have a status of its own."""
    with pytest.raises(EngineFault):
        await told(failing(EngineFault("no"), after=0)())


async def test_an_error_in_the_middle_is_an_event() -> None:
    """The client gets the words so far and the error in OpenAI's shape."""
    failures: list[GatewayError] = []
    sent = await told(failing(EngineFault("It broke."), after=1)(), failures=failures)

    assert [error.code for error in failures] == ["engine_error"]
    assert sent[0] == wire.event(CHUNK)
    assert wire.decode_error(sent[1].removeprefix(b"data: ")).error.message == "It broke."
    assert len(sent) == 2


async def test_a_fault_of_ours_in_the_middle_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns that it is our fault; the log learns the rest."""
    sent = await told(failing(KeyError("secret"), after=1)())

    assert b"secret" not in b"".join(sent)
    assert "secret" in caplog.text


async def test_silence_is_filled_with_comments() -> None:
    """While nothing comes, the connection is held open by comments, which clients skip."""
    go = asyncio.Event()

    async def slow() -> Chunks:
        await go.wait()
        yield CHUNK

    async def send(piece: bytes) -> None:
        sent.append(piece)
        if len(sent) == 2:
            go.set()

    sent: list[bytes] = []
    await streaming.tell(slow(), send, heartbeat=0.01, failed=lambda _: None)

    assert sent[:2] == [b": still working\n\n"] * 2
    assert sent[-1] == wire.event(CHUNK)


async def test_an_error_after_a_heartbeat_is_an_event() -> None:
    """A comment has begun the answer, so its status is told."""
    beaten = asyncio.Event()

    async def failing_late() -> Chunks:
        await beaten.wait()
        raise EngineFault("It broke.")
        yield CHUNK

    async def send(piece: bytes) -> None:
        sent.append(piece)
        beaten.set()

    sent: list[bytes] = []
    await streaming.tell(failing_late(), send, heartbeat=0.01, failed=lambda _: None)

    assert wire.decode_error(sent[-1].removeprefix(b"data: ")).error.message == "It broke."


async def test_a_client_that_leaves_ends_the_work_behind_its_stream() -> None:
    """Nothing is left running."""
    ended, begun = asyncio.Event(), asyncio.Event()

    async def endless() -> Chunks:
        try:
            yield CHUNK
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def send(_: bytes) -> None:
        begun.set()

    failures: list[GatewayError] = []
    telling = asyncio.create_task(streaming.tell(endless(), send, heartbeat=NEVER, failed=failures.append))
    await begun.wait()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)

    assert ended.is_set()
    assert failures == []
