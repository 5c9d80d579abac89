"""Several worker processes behind one address: nobody can tell, but for how much they do."""

import asyncio
import http.client
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.raw import Answer, chat, send
from tests.flows.shared import Fake, ask, clients, echo, gateways
from tests.flows.test_admin import command
from tests.flows.test_coalescing import a_thousand
from tests.flows.test_swapping import ROOT, TWIN
from tests.pictures import SCENES, data_url, message
from tests.services import Server, command_line, descendants, running_redis, running_server, wait_for_log

TWO = "[server]\nworkers = 2\n"
NOTHING_LOADED = "[engines]\npreload = []\n"
PICTURE = [message(data_url(pictures.png(SCENES[0])))]
FRESH = {"cache-control": "no-store"}


@pytest.fixture
async def engine() -> AsyncIterator[Fake]:
    """An engine elsewhere that waits in the middle of its answer until it is told to go on."""
    async with Fake().running() as running:
        running.always = echo(running, waits=True)
        yield running


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never was so"
        time.sleep(0.01)


@contextmanager
def connected(server: Server) -> Iterator[http.client.HTTPConnection]:
    """A connection that has been given to a worker."""
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc, timeout=60)
    connection.request("GET", "/health")
    connection.getresponse().read()
    try:
        yield connection
    finally:
        connection.close()


def holder(server: Server, connection: http.client.HTTPConnection) -> int:
    """The worker that has the other end of a connection."""
    ports = [f":{port:04X}" for port in (urlsplit(server.root).port, connection.sock.getsockname()[1])]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    (inode,) = (words[9] for words in lines if [words[1][-5:], words[2][-5:], words[3]] == [*ports, "01"])
    return next(pid for pid in server.worker_pids() if f"socket:[{inode}]" in sockets(pid))


def reached(server: Server) -> set[int]:
    """The workers that two connections are given to."""
    with connected(server) as one, connected(server) as other:
        return {holder(server, one), holder(server, other)}


def sockets(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]


def test_connections_go_to_the_workers_in_turn(tmp_path: Path) -> None:
    """However fast they come: a pool of a client's does not end up with one worker, as with one socket for all."""
    with running_server(tmp_path, settings=TWO + NOTHING_LOADED) as server, ExitStack() as stack:
        connections = [stack.enter_context(connected(server)) for _ in range(10)]

        held = Counter(holder(server, connection) for connection in connections)

    assert sorted(held.values()) == [5, 5]
    assert server.banner.count("is listening") == 1


async def test_a_thousand_identical_requests_are_one_generation(tmp_path: Path, engine: Fake) -> None:
    """Whichever worker they come to: one makes the answer, the other waits for it, without any Redis."""
    async with gateways(tmp_path, engine, workers=2) as servers:
        told = await a_thousand(servers, engine, beginnings=200)

    assert len(engine.requests) == 1
    assert {(each.status, each.words) for each in told} == {(200, "hello")}
    assert Counter(each.cache for each in told)["miss"] == 1


@pytest.mark.parametrize("with_redis", [False, True], ids=["owner", "redis"])
def test_a_limit_of_a_key_holds_across_workers(tmp_path: Path, with_redis: bool) -> None:
    """Requests a minute, and requests at once, by the owner's books or by those in Redis."""
    with ExitStack() as stack:
        cache = f'[cache]\nredis = "{stack.enter_context(running_redis(tmp_path)).url}"\n' if with_redis else ""
        limits = section("two", "two", "requests_per_minute = 2") + section("single", "single", "concurrent = 1")
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        server = stack.enter_context(
            running_server(
                tmp_path, settings=TWO + NOTHING_LOADED + cache + limits, environ=environ, module="tests.flows.patient"
            )
        )
        statuses = [unreadable(server, "two").status for _ in range(4)]
        with uploading(server, "single"):
            busy = [unreadable(server, "single").status for _ in range(2)]
        wait_for_log(server, "POST /v1/chat/completions 499")
        freed = [unreadable(server, "single").status for _ in range(2)]

    assert statuses == [400, 400, 429, 429]
    assert busy == [429, 429]
    assert freed == [400, 400]


def unreadable(server: Server, key: str) -> Answer:
    """A request that needs no model, and counts all the same."""
    return send(server, "POST", "/v1/chat/completions", "{", with_key(key))


def tried(server: Server, key: str) -> int | None:
    """The same; None when its connection was with a worker that died."""
    try:
        return unreadable(server, key).status
    except ConnectionError:
        return None


@contextmanager
def uploading(server: Server, key: str) -> Iterator[socket.socket]:
    """A request whose body is being waited for."""
    address = urlsplit(server.root)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {key}"]
        connection.sendall("\r\n".join([*lines, "content-length: 9", "expect: 100-continue", "", ""]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        yield connection


def test_a_worker_that_is_killed_takes_nothing_else_with_it(tmp_path: Path) -> None:
    """The place of its request among its key's goes back, the other worker serves on, and another takes its place."""
    settings = TWO + NOTHING_LOADED + section("single", "single", "concurrent = 1")
    with running_server(tmp_path, settings=settings) as server:
        with connected(server) as quiet:
            before = server.worker_pids()
            (busy,) = set(before) - {holder(server, quiet)}
            with uploading(server, "single"):
                assert unreadable(server, "single").status == 429
                os.kill(busy, signal.SIGKILL)
                wait_until(lambda: tried(server, "single") == 400)
            quiet.request("GET", "/health")
            assert quiet.getresponse().status == 200
        wait_until(lambda: len(reached(server)) == 2)

        assert busy not in server.worker_pids()
        assert "ended with exit code -9; another takes its place" in server.log.read_text()


def test_nothing_outlives_an_owner_that_is_killed(tmp_path: Path) -> None:
    """No worker, no engine and no process that decodes pictures; and the next start sweeps up their folders."""
    with running_server(tmp_path, settings=TWO) as server:
        assert all(chat(server, FRESH, messages=PICTURE).status == 200 for _ in range(2))
        started = {pid: command_line(pid) for pid in descendants(server.process.pid)}
        server.process.kill()

        for kind, least in (("gateway.workers", 2), ("engines.blip", 1), ("images.worker", 2)):
            assert sum(kind in line for line in started.values()) >= least, kind
        wait_until(lambda: not any(command_line(pid) == line for pid, line in started.items()))


async def test_what_is_under_way_is_finished_before_the_end(tmp_path: Path, engine: Fake) -> None:
    """SIGTERM to the owner: nobody is let in any more, both workers finish, and then all of it ends in order."""
    async with gateways(tmp_path, engine, workers=2) as (server,), clients() as session:
        asked = [
            asyncio.ensure_future(ask(session, server, stream=stream, seed=seed))
            for seed, stream in enumerate((False, True))
        ]
        async with asyncio.timeout(30):
            while len(engine.requests) < 2:
                await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_for_log, server, "Waiting for connections to close", 2)
        with pytest.raises(ConnectionError):
            send(server, "GET", "/health")
        engine.go.set()
        told = await asyncio.gather(*asked)
        code = await asyncio.to_thread(server.process.wait, 30)

    assert [(each.status, each.words) for each in told] == [(200, "hello")] * 2
    assert code == 0
    assert "Traceback" not in server.log.read_text()


def test_two_models_take_turns_in_one_place(tmp_path: Path) -> None:
    """Asked for by both workers at once, with a place for one: each gets its answers, and never are two loaded."""
    with running_server(tmp_path, settings=TWO + TWIN) as server, ThreadPoolExecutor(2) as threads:
        names = ["demo", "twin"]
        waiting = [threads.submit(chat, server, FRESH, model=name, messages=PICTURE) for name in names]
        answers = [each.result() for each in waiting]
        states = {
            entry["id"]: entry["status"]
            for entry in send(server, "GET", "/v1/models").json()["data"]
            if entry["id"] in ("demo", "twin")
        }

        assert [answer.status for answer in answers] == [200] * 2
        assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
        assert sorted(states.values()) in (["ready", "stopped"], ["ready", "stopping"])
        assert len(server.engine_pids()) == 1


@pytest.mark.parametrize("with_redis", [False, True], ids=["owner", "redis"])
async def test_what_is_removed_is_gone_for_all_workers_at_once(tmp_path: Path, engine: Fake, with_redis: bool) -> None:
    """Kept answers are found by both, counted for both, and removed from both, copies in their own memory included."""
    engine.go.set()
    root = with_key("root")
    with running_redis(tmp_path) if with_redis else nullcontext() as redis:
        settings = section("root", "root", "admin = true")
        cache = f'redis = "{redis.url}"' if redis is not None else ""
        async with (
            gateways(tmp_path, engine, workers=2, cache=cache, settings=settings) as (server,),
            clients() as session,
        ):
            first = await asked_four_times(session, server)
            report = send(server, "GET", "/admin/cache", headers=root).json()
            removed = send(server, "DELETE", "/admin/cache?model=m", headers=root).json()
            afterwards = await asked_four_times(session, server)

    assert first == afterwards == ["miss", "hit", "hit", "hit"]
    assert (report["hits"], report["misses"], report["memory"]["complete"]) == (3, 1, True)
    shared = "redis" if with_redis else "memory"
    assert (report[shared]["entries"], removed[shared]["entries"]) == (1, 1)
    assert with_redis or report["redis"] is removed["redis"] is None


def test_a_worker_that_did_not_remove_its_copies_is_told(tmp_path: Path) -> None:
    """The command says who did not answer, and ends with an error, though there is no Redis."""
    settings = TWO + NOTHING_LOADED + section("root", "root", "admin = true")
    with running_server(tmp_path, settings=settings) as server:
        with connected(server) as last:
            stopped = holder(server, last)  # the next connection is the other's
        os.kill(stopped, signal.SIGSTOP)
        try:
            done = command("clear", "--url", server.root, "--model", "demo", key="root")
        finally:
            os.kill(stopped, signal.SIGCONT)

    assert done.returncode == 1
    assert "A worker did not answer in time" in done.stdout


async def asked_four_times(session: aiohttp.ClientSession, server: Server) -> list[str]:
    """What the cache says of one request, each time by the next worker, once the first answer is kept.

    One that is made within a moment of a removal may be taken for older and not be kept; then it is made again.
    """
    root = with_key("root")
    first = await ask(session, server, root)
    async with asyncio.timeout(30):
        while not await is_kept(server):
            await ask(session, server, root)
    return [first.cache, *[(await ask(session, server, root)).cache for _ in range(3)]]


async def is_kept(server: Server) -> bool:
    """Whether an answer is kept within two seconds."""
    for _ in range(200):
        if kept(send(server, "GET", "/admin/cache", headers=with_key("root")).json()) == 1:
            return True
        await asyncio.sleep(0.01)
    return False


def kept(report: dict[str, Any]) -> int:
    """How many answers the workers have in common."""
    return int((report["redis"] or report["memory"])["entries"])


def test_new_keys_hold_for_all_workers(tmp_path: Path) -> None:
    """The owner reads the file, once for all; whoever takes a dead one's place has the new keys as well."""
    with running_server(tmp_path, settings=TWO + NOTHING_LOADED + section("old", "old")) as server:
        (tmp_path / "altgate.toml").write_text(TWO + NOTHING_LOADED + section("new", "new"))
        wait_for_log(server, "The keys were read anew; there are 1")
        wait_until(lambda: [listed(server, "new") for _ in range(2)] == [200, 200])
        before = server.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(server.worker_pids()) == 2 and not set(before) & set(server.worker_pids()))

        assert [listed(server, key) for key in ("new", "new", "old", "old")] == [200, 200, 401, 401]


def listed(server: Server, key: str) -> int:
    """How a request with that key ends."""
    return send(server, "GET", "/v1/models", headers=with_key(key)).status
