"""Connections that reach only allowed addresses, whatever a name resolves to.

A name is resolved once per connection, every answer is checked, and what was checked is what is dialled: a name that
changes its answers between check and use (DNS rebinding) gains nothing. The guard stands at three places, because
aiohttp asks a resolver only about names: on the answers, on each address as its socket is made, and on the peer that
the connection really has.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.images.address import Network, may_dial

MAX_CONNECTIONS = 64
MAX_CONNECTIONS_PER_HOST = 16  # one slow site leaves room for the others
MAX_LOOKUPS = 16

Lookup = Callable[[str], Awaitable[list[str]]]


class BlockedAddressError(OSError):
    """The address may not be dialled. An OSError, so that aiohttp treats it as any failed connection."""


class Guard:
    """Refuses addresses that are neither public nor inside one of the `allowed` networks."""

    def __init__(self, allowed: Collection[Network]) -> None:
        self._allowed = allowed

    def check(self, address: str) -> None:
        """Lets the textual address pass.

        Raises:
            BlockedAddressError: it may not be dialled, or is no address.
        """
        try:
            allowed = may_dial(ip_address(address), self._allowed)
        except ValueError:
            allowed = False
        if not allowed:
            raise BlockedAddressError("not an address to fetch pictures from")


class SystemLookup:
    """Asks the operating system for a name's addresses, in threads of its own: slow DNS holds up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="dns")

    async def __call__(self, host: str) -> list[str]:
        """The host's IPv4 and IPv6 addresses, in the system's order of preference.

        Raises:
            OSError: there are none.
        """
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, self._getaddrinfo, host)
        return [str(answer[4][0]) for answer in answers]

    def close(self) -> None:
        """Waits for no lookup."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _getaddrinfo(host: str) -> list[Any]:
        # As bytes, since Python would put a str through the IDNA codec of 2003.
        return socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


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
        answers = await self._lookup(host)
        if not answers:
            raise OSError("the name has no address")
        for answer in answers:
            self._guard.check(answer)
        return [_result(host, answer, port) for answer in answers]

    async def close(self) -> None:
        """Nothing to close: the lookup belongs to who made it."""


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector behind the guard. Connections are not reused: each hop's address is the one just checked."""

    def __init__(self, guard: Guard, lookup: Lookup) -> None:
        super().__init__(
            resolver=Resolver(guard, lookup),
            use_dns_cache=False,
            family=socket.AF_UNSPEC,
            force_close=True,
            limit=MAX_CONNECTIONS,
            limit_per_host=MAX_CONNECTIONS_PER_HOST,
            socket_factory=self._make_socket,
        )
        self._guard = guard

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> aiohttp.connector.Connection:
        """A connection whose peer was checked; not a byte of the request has been sent on it yet."""
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        try:
            self._guard.check(str(peer[0]) if peer else "")
        except BlockedAddressError:
            connection.close()
            raise
        return connection

    def _make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        self._guard.check(str(address[0]))
        return socket.socket(family, kind, protocol)


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=socket.IPPROTO_TCP, flags=flags)
