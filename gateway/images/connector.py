"""Connections that reach only allowed addresses, whatever a name resolves to.

A name is resolved once per connection, every answer is checked, and what was checked is what is dialled: a name that
changes its answers between check and use (DNS rebinding) gains nothing. The guard stands at three places, because
aiohttp asks a resolver only about names: on the answers, on each address as its socket is made, and on the peer that
the connection really has.

Idle connections are kept for a while and used again for the same scheme, host and port. That asks the DNS less often
and weakens nothing: a connection cannot change its peer, which was checked when it was dialled and is checked again.

Dialling that fails takes as long as dialling may take at all, whatever the cause: else a client could tell with a watch
whether a port is closed, filtered or blocked, and which names an inner DNS knows.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.images.address import Address, Network, may_dial
from gateway.images.places import NoPlaceError, Places
from gateway.images.url import meant_by

MAX_IDLE = 64  # connections kept, of all hosts together
KEEP_ALIVE = 15.0  # seconds for which they are
MAX_LOOKUPS = 128  # lookups under way; slow ones are not broken off, so there are more than anybody waits for

_DISCARD = 9  # a port to name where none is spoken to

EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))

Lookup = Callable[[str], Awaitable[list[str]]]


class BlockedAddressError(OSError):
    """The address may not be dialled. An OSError, so that aiohttp treats it as any failed connection."""


class Guard:
    """Refuses addresses that are neither public nor inside one of the `allowed` networks, and this machine's own.

    Its own addresses are refused even where they are public, since a firewall does not stand in front of them, unless
    they are allowed; and the port on which the gateway itself listens is refused at all of them.
    """

    def __init__(self, allowed: Collection[Network], *, own_port: int | None = None) -> None:
        self._allowed = allowed
        self._own_port = own_port

    def check(self, address: str, port: int) -> None:
        """Lets the textual address pass.

        Raises:
            BlockedAddressError: it may not be dialled, or is no address.
        """
        try:
            passes = self._passes(ip_address(address), port)
        except ValueError:
            passes = False
        if not passes:
            raise BlockedAddressError("not an address to fetch pictures from")

    def _passes(self, address: Address, port: int) -> bool:
        if not may_dial(address, self._allowed):
            return False
        if port != self._own_port and any(address in network for network in self._allowed):
            return True
        return not is_own(address)


def is_own(address: Address) -> bool:
    """Whether the address is one of this machine's: packets to it would be sent from it. None is sent to find out."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), _DISCARD))
        except OSError:
            return False  # there is no way to it
        return ip_address(probe.getsockname()[0]) == address


class SystemLookup:
    """Asks the operating system for a name's addresses, in threads of its own.

    A lookup cannot be broken off, so slow DNS must hold up nothing else: these threads end with the process, unlike
    those of an executor, for which it would wait. `patience` is how many seconds one waits for one of them.
    """

    def __init__(self, *, patience: float) -> None:
        self._patience = patience
        self._places = Places(MAX_LOOKUPS)
        self._under_way: set[asyncio.Task[list[str]]] = set()

    async def __call__(self, host: str) -> list[str]:
        """The host's IPv4 and IPv6 addresses, in the system's order of preference.

        Raises:
            OSError: there are none.
            NoPlaceError: too many lookups are under way, of that domain or in all, or threads of the system.
        """
        task = asyncio.create_task(self._placed(host))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)  # its place is taken for as long as its thread runs, whoever leaves

    async def _placed(self, host: str) -> list[str]:
        async with self._places.place(host, patience=self._patience):
            loop = asyncio.get_running_loop()
            found: asyncio.Future[list[str]] = loop.create_future()
            thread = threading.Thread(target=self._look_up, args=(host, loop, found), name="dns", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left, which is not the name's fault
                raise NoPlaceError from None
            return await found

    def _ended(self, task: "asyncio.Task[list[str]]") -> None:
        self._under_way.remove(task)
        if not task.cancelled():
            task.exception()  # there may be nobody left to be told

    def _look_up(self, host: str, loop: asyncio.AbstractEventLoop, found: "asyncio.Future[list[str]]") -> None:
        result: list[str] | OSError
        try:
            # As bytes, since Python would put a str through the IDNA codec of 2003. Without AI_ADDRCONFIG, which hides
            # IPv6 answers from a machine without IPv6: a name is judged by all of its addresses on every machine.
            answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
            result = [str(answer[4][0]) for answer in answers]
        except OSError as error:
            result = error
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(self._settle, found, result)

    def _settle(self, found: "asyncio.Future[list[str]]", result: list[str] | OSError) -> None:
        if found.done():
            return  # nobody waits any more
        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)


class Resolver(AbstractResolver):
    """A name's addresses, if every single one of them may be dialled."""

    def __init__(self, guard: Guard, lookup: Lookup) -> None:
        self._guard = guard
        self._lookup = lookup

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature; both families are wanted
    ) -> list[ResolveResult]:
        """The addresses for aiohttp.

        Raises:
            BlockedAddressError: one of the answers may not be dialled.
            OSError: there are no answers.
        """
        meant = meant_by(host)
        answers = await self._lookup(host) if meant is None else [str(meant)]
        if not answers:
            raise OSError("the name has no address")
        for answer in answers:
            self._guard.check(answer, port)
        return [_result(host, answer, port) for answer in answers]

    async def close(self) -> None:
        """Nothing to close: the lookup belongs to who made it."""


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector behind the guard. How many connections are in use at once, the caller bounds.

    `patience` is how many seconds dialling may take: the lookup, the connection and its encryption together.
    """

    def __init__(self, guard: Guard, lookup: Lookup, *, patience: float, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(
            resolver=Resolver(guard, lookup),
            use_dns_cache=False,
            family=socket.AF_UNSPEC,
            limit=0,
            keepalive_timeout=KEEP_ALIVE,
            socket_factory=self._make_socket,
            ssl=tls or True,
        )
        self._guard = guard
        self._patience = patience
        self._made: WeakSet[socket.socket] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> aiohttp.connector.Connection:
        """A connection whose peer was checked; not a byte of the request has been sent on it yet."""
        end = asyncio.get_running_loop().time() + self._patience
        try:
            async with asyncio.timeout_at(end):
                connection = await super().connect(req, traces, timeout)
                self._check_peer(connection)
        except (OSError, aiohttp.ClientError):
            await asyncio.sleep(end - asyncio.get_running_loop().time())
            raise
        self._check_state(connection)
        return connection

    def _check_peer(self, connection: aiohttp.connector.Connection) -> None:
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        try:
            self._guard.check(*peer[:2] if peer else ("", 0))
        except BlockedAddressError:
            connection.close()
            raise

    def _check_state(self, connection: aiohttp.connector.Connection) -> None:
        protocol = connection.protocol
        if protocol is None or protocol.should_close:
            connection.close()
            raise aiohttp.ServerDisconnectedError("something was sent before anything was asked")
        if self._open_sockets() > MAX_IDLE:
            protocol.force_close()  # after its answer: there are enough to keep

    def _make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        self._guard.check(str(address[0]), address[1])
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    def _open_sockets(self) -> int:
        return sum(made.fileno() >= 0 for made in self._made)


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=socket.IPPROTO_TCP, flags=flags)
