"""Frames on the way between the owner and a worker."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.workers import messages
from gateway.workers.channel import Channel
from gateway.workers.messages import HEAD, MOST_FRAME, framed
from tests.gateway.workers.pairs import Office, house

MESSAGE = messages.Keep("key", b"x" * 300_000)


class Heard:
    """What one end has heard, and whether it is still there."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.lost = asyncio.Event()


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    """Both ends of a pair of sockets."""
    return socket.socketpair()


@pytest.fixture
async def heard(ends: tuple[socket.socket, socket.socket]) -> AsyncIterator[Heard]:
    """A channel at the first end."""
    told = Heard()
    channel = await Channel.open(ends[0], told.frames.put_nowait, told.lost.set)
    yield told
    channel.close()
    ends[1].close()


async def test_frames_come_whole_however_they_are_cut(ends: tuple[socket.socket, socket.socket], heard: Heard) -> None:
    """Several in one piece, one in several, and in order."""
    loop, data = asyncio.get_running_loop(), framed(messages.Want("a")) + framed(MESSAGE) + framed(messages.Want("b"))
    ends[1].setblocking(False)
    for cut in (data[:2], data[2:7], data[7:100_000], data[100_000:]):
        await loop.sock_sendall(ends[1], cut)

    said = [messages.decode_from_worker(await heard.frames.get()) for _ in range(3)]

    assert said == [messages.Want("a"), MESSAGE, messages.Want("b")]


async def test_a_frame_too_large_ends_the_channel(
    ends: tuple[socket.socket, socket.socket], heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """Before it has arrived: its head says it."""
    ends[1].sendall((MOST_FRAME + 1).to_bytes(HEAD, "big"))
    async with asyncio.timeout(20):
        await heard.lost.wait()

    assert "a frame that is too large" in caplog.text
    assert heard.frames.empty()


async def test_both_ends_notice_at_once_when_the_other_is_gone(tmp_path: Path) -> None:
    """A worker whose owner is no more is told; so it is by the kernel, whatever has become of the other process."""
    work = Office(house(tmp_path))
    async with work.hired():
        work.channels[0].close()
        async with asyncio.timeout(20):
            await work.lost.wait()
