"""The processes of workers, real ones, and the door that gives them connections."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.workers import crew, door
from gateway.workers.crew import Crew, StartFailed
from gateway.workers.door import Door
from gateway.workers.messages import Gather, Gathered
from tests.gateway.workers.pairs import house, orders


@asynccontextmanager
async def working(folder: Path, count: int = 1) -> AsyncIterator[Crew]:
    """So many workers without engines, once they can take connections."""
    owner = house(folder)
    made = Crew(count, owner, lambda: orders(owner))
    running = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(30):
            await made.whole.wait()
        yield made
    finally:
        made.end(signal.SIGTERM)
        await running


async def test_a_worker_that_does_nothing_any_more_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It lives, but answers nobody: it is killed, and another takes its place."""
    monkeypatch.setattr(crew, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(crew, "LOOK_PATIENCE", 1.0)
    async with working(tmp_path) as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(30):
            while made.pids in ([], [pid]) or not [*made.caches]:
                await asyncio.sleep(0.01)

    assert "has done nothing for 1 s and is killed" in caplog.text


async def test_a_worker_that_takes_nothing_gets_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection is all that it leaves lying while there is another worker; and it has its turn when it goes on."""
    monkeypatch.setattr(crew, "STUCK_AFTER", 0.0)
    async with working(tmp_path, count=2) as made:
        stopped, _ = made.pids
        os.kill(stopped, signal.SIGSTOP)
        async with asyncio.timeout(20):
            while " T " not in Path(f"/proc/{stopped}/stat").read_text():
                await asyncio.sleep(0.01)
        asked = [asyncio.create_task(answered(made)) for _ in range(2)]
        try:
            await asyncio.wait(asked, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            others = [await answered(made) for _ in range(8)]
            waiting = [each for each in asked if not each.done()]
        finally:
            os.kill(stopped, signal.SIGCONT)
        told = await asyncio.gather(*asked)

    assert len(waiting) == 1
    assert [*told, *others] == [b"HTTP/1.1 200"] * 10


async def answered(made: Crew) -> bytes:
    """How the worker that is given a connection answers on it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with theirs:
        assert made.give(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(20):
        status = await reader.readexactly(12)
    writer.close()
    return status


async def test_a_worker_that_is_still_starting_is_not_waited_for(tmp_path: Path) -> None:
    """Else there would be no metrics, and no removal would be complete, whenever one takes another's place."""
    async with working(tmp_path) as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while made.pids in ([], [pid]):
                await asyncio.sleep(0.001)
        (successor,) = made.pids
        os.kill(successor, signal.SIGSTOP)
        try:
            told = await made.ask(Gather(crew.ALIVE, b""))
        finally:
            os.kill(successor, signal.SIGCONT)

    assert (told.answers, told.missing) == ((), 0)


async def test_who_asks_hears_of_a_worker_that_ends_meanwhile(tmp_path: Path) -> None:
    """As of one that does not answer, and at once."""
    async with working(tmp_path) as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)
        asking = asyncio.create_task(made.ask(Gather("alive", b"")))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)

        assert await asking == Gathered((), 1)


async def test_workers_that_cannot_start_end_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no use in trying again what never worked."""
    monkeypatch.setattr(crew, "MODULE", "gateway.workers.no_such_module")
    owner = house(tmp_path)

    with pytest.raises(ExceptionGroup) as caught:
        await Crew(2, owner, lambda: orders(owner)).run()

    assert caught.group_contains(StartFailed, match="ended with exit code 1")


async def test_connections_wait_while_nobody_can_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is refused and none is lost while workers are replaced: they are given away when somebody is there."""
    monkeypatch.setattr(door, "PAUSE", 0.01)
    taken: list[socket.socket] = []
    somebody = False
    asked = asyncio.Event()

    def give(connection: socket.socket) -> bool:
        asked.set()
        if somebody:
            taken.append(connection.dup())
        return somebody

    listener = socket.create_server(("127.0.0.1", 0))
    entrance = Door(listener, give)
    entrance.open()
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    async with asyncio.timeout(20):
        await asked.wait()
        somebody = True
        while len(taken) < 3:
            await asyncio.sleep(0.01)
    await entrance.close()

    assert {each.getpeername() for each in taken} == {each.getsockname() for each in clients}
    for each in (*taken, *clients):
        each.close()


async def test_who_has_connected_when_a_door_closes_is_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that nobody could take so far, and those in the listener's queue, as soon as there is room for them."""
    monkeypatch.setattr(door, "PAUSE", 0.01)
    given: list[tuple[str, int]] = []
    asked = asyncio.Event()

    def give(connection: socket.socket) -> bool:
        is_taken = asked.is_set()
        if is_taken:
            given.append(connection.getpeername())
        asked.set()
        return is_taken

    listener = socket.create_server(("127.0.0.1", 0))
    entrance = Door(listener, give)
    entrance.open()
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    await asked.wait()  # the first is held now, and the others are in the queue
    await entrance.close()

    assert given == [client.getsockname() for client in clients]
    for client in clients:
        client.close()


async def test_what_waits_at_a_door_that_closes_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is not left with a connection that nobody will ever take."""
    monkeypatch.setattr(door, "LAST_PATIENCE", 0.1)
    asked = asyncio.Event()

    def give(_: socket.socket) -> bool:
        asked.set()
        return False

    listener = socket.create_server(("127.0.0.1", 0))
    entrance = Door(listener, give)
    entrance.open()
    with socket.create_connection(listener.getsockname()) as client:
        await asked.wait()
        await entrance.close()
        client.settimeout(20)

        assert client.recv(1) == b""
