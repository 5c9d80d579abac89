"""How a server is reached, on real sockets, and what is left of it when it is not."""

import asyncio
import gc
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from yarl import URL

from gateway import http1_client
from gateway.http1_client import Client, NotConnected, Response
from gateway.http1_client.connection import Connection, Pool
from tests.gateway.http1_client.peers import OK, Peer, first, whole
from tests.gateway.images.test_encryption import Authority


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> WeakSet[Connection]:
    """All connections that the test has made, as far as they are still in memory."""
    connections = WeakSet[Connection]()

    def make(pool: Pool) -> Connection:
        connections.add(connection := Connection(pool))
        return connection

    monkeypatch.setattr(http1_client.client, "Connection", make)
    return connections


async def test_a_server_that_cannot_be_reached_was_sent_nothing(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens, there is no such name or path, or nothing speaks TLS there; who had less time is late."""
    slow = peer.client(scheme="https")
    with pytest.raises(TimeoutError):
        await slow.get("/", seconds=0.05)
    monkeypatch.setattr(http1_client.client, "CONNECT_TIMEOUT", 0.05)
    for client in (
        slow,
        Client.of(URL("http://127.0.0.1:1"), keep_alive=1),
        Client.of(URL("http://not..possible"), keep_alive=1),
        Client.at(str(tmp_path / "nobody")),
    ):
        with pytest.raises(NotConnected):
            await client.get("/", seconds=20)


async def test_a_server_is_believed_by_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the system's authorities have signed, for the name that was asked for; anybody else hears nothing."""
    authority = Authority(tmp_path)
    context = authority.context(name="localhost")
    trusted = [ssl.create_default_context(), authority.trusting, authority.trusting]
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusted.pop(0))
    async with Peer().serving(context) as peer:
        hosts = ("localhost", "localhost", "127.0.0.1")
        stranger, friend, mistaken = (peer.client(scheme="https", host=host) for host in hosts)
        for client in (stranger, mistaken):
            with pytest.raises(NotConnected) as caught:
                await client.get("/", seconds=20)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert peer.nobody_came
        _, response = await first(friend, peer, OK)

        assert await whole(response) == b"ok"


async def test_an_encrypted_connection_is_not_used_again_once_a_large_request_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether all of that was sent; after an answer, and after a small request, it is."""
    authority = Authority(tmp_path)
    context = authority.context(name="localhost")
    monkeypatch.setattr(ssl, "create_default_context", lambda: authority.trusting)
    async with Peer().serving(context) as peer:
        client = peer.client(scheme="https", host="localhost")
        caller, response = await first(client, peer, OK)
        assert await whole(response) == b"ok"
        for size, status in ((10, 413), (100_000, 200), (100_000, 413)):
            asking = asyncio.create_task(client.post("/", bytes(size), seconds=20))
            await caller.answer(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\nok" % status)
            assert await whole(await asking) == b"ok"

        await caller.left()


async def test_a_certificate_is_for_a_name_without_the_dot_that_may_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which says that nothing is to be added where the name is looked up."""
    authority, loop = Authority(tmp_path), asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def found(host: str, port: int, **wanted: Any) -> Sequence[object]:
        return await look_up("127.0.0.1" if host == "localhost." else host, port, **wanted)

    monkeypatch.setattr(type(loop), "getaddrinfo", staticmethod(found), raising=False)
    monkeypatch.setattr(ssl, "create_default_context", lambda: authority.trusting)
    async with Peer().serving(authority.context(name="localhost")) as peer:
        _, response = await first(peer.client(scheme="https", host="localhost."), peer, OK)

        assert await whole(response) == b"ok"


async def test_any_of_a_names_addresses_will_do(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One where nobody answers costs a moment, not the request."""
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def both(host: str, port: int, **wanted: Any) -> Sequence[object]:
        """uvloop asks about addresses that are found as well."""
        hosts = [("127.0.0.1", 1), ("127.0.0.1", port)] if host == "twofold.example" else [(host, port)]
        return [(await look_up(*address, **wanted))[0] for address in hosts]

    monkeypatch.setattr(type(loop), "getaddrinfo", staticmethod(both), raising=False)
    _, response = await first(peer.client(host="twofold.example"), peer, OK)

    assert await whole(response) == b"ok"


async def test_a_name_is_looked_up_once_for_all_who_want_it_then(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where whoever wanted it first has left; it is not kept for later, for it may mean something else then."""
    loop = asyncio.get_running_loop()
    look_up, asked, go = loop.getaddrinfo, list[str](), asyncio.Event()

    async def slowly(host: str, port: int, **wanted: Any) -> Sequence[object]:
        if host != "slow.example":
            return await look_up(host, port, **wanted)
        asked.append(host)
        await go.wait()
        return await look_up("127.0.0.1", port, **wanted)

    monkeypatch.setattr(type(loop), "getaddrinfo", staticmethod(slowly), raising=False)
    client = peer.client(host="slow.example")
    leaver, *others = [asyncio.create_task(client.get("/", seconds=20)) for _ in range(4)]
    while not asked:
        await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.wait([leaver])
    go.set()
    for _ in others:
        await (await peer.caller()).answer(OK)
    for response in await asyncio.gather(*others):
        await whole(response)
    assert len(asked) == 1
    client.close()
    await first(client, peer, OK)

    assert len(asked) == 2


async def test_nothing_is_left_of_who_leaves_while_a_connection_is_made(peer: Peer, made: WeakSet[Connection]) -> None:
    """At whichever turn of the loop: not all loops tell then of the end."""
    client = peer.client()
    for turns in range(15):
        asking = asyncio.create_task(client.get("/", seconds=20))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
    client.close()
    del asking

    await _gone(made)


def test_nothing_is_left_on_another_loop_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: WeakSet[Connection]
) -> None:
    """Python's own would lose sight of a socket that is closed while it says goodbye to a server that speaks TLS."""
    authority = Authority(tmp_path)
    monkeypatch.setattr(ssl, "create_default_context", lambda: authority.trusting)
    connection_made, asking = Connection.connection_made, list[asyncio.Task[Response]]()

    def made_in_vain(connection: Connection, transport: asyncio.BaseTransport) -> None:
        connection_made(connection, transport)
        asking.pop().cancel()

    monkeypatch.setattr(Connection, "connection_made", made_in_vain)

    async def left() -> None:
        async with Peer().serving(authority.context(name="localhost")) as peer:
            client = peer.client(scheme="https", host="localhost")
            asking.append(asyncio.create_task(client.get("/", seconds=20)))
            await asyncio.wait(asking)
            await _gone(made)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(left())


async def _gone(made: WeakSet[Connection]) -> None:
    async with asyncio.timeout(5):
        while gc.collect() >= 0 and made:
            await asyncio.sleep(0.01)
