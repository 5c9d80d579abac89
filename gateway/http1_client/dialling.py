"""The ways to a server: TCP, with or without TLS, and a Unix socket."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import aiohappyeyeballs
from yarl import URL

HEAD_START = 0.25  # seconds for each of a name's addresses until the next one is tried as well

T = TypeVar("T", bound=asyncio.Protocol)
Addresses = Sequence[aiohappyeyeballs.AddrInfoType]


class Way(Protocol):
    """How a server is reached."""

    async def dial(self, make: Callable[[], T]) -> T:
        """A connection, in the hands of a protocol that is made for it.

        Raises:
            OSError: there is none to be had.
        """
        ...


class UnixWay:
    """To a server of this machine that listens at a path."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def dial(self, make: Callable[[], T]) -> T:
        """As `Way` has it."""
        _, protocol = await asyncio.get_running_loop().create_unix_connection(make, self._path)
        return protocol


class InternetWay:
    """To the server that an http or https URL names, whatever stands in the environment."""

    def __init__(self, url: URL) -> None:
        self._host = url.raw_host or ""
        self._port = url.port or 0
        self._tls = _tls() if url.scheme == "https" else None
        self._lookup: asyncio.Task[Addresses] | None = None

    async def dial(self, make: Callable[[], T]) -> T:
        """As `Way` has it. Of a name's addresses those that do not answer cost a quarter of a second each."""
        try:
            addresses = await self._addresses()
        except UnicodeError as error:  # the host's name is one that no name can be
            raise OSError("no name") from error
        peer = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=HEAD_START)
        name = self._host.rstrip(".") if self._tls else None  # certificates are for names without the root's dot
        # From here on the socket is the loop's, which closes it if this fails.
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(make, sock=peer, ssl=self._tls, server_hostname=name)
        return protocol

    async def _addresses(self) -> Addresses:
        """One lookup is for all who dial meanwhile: uvloop does two at a time, so hundreds would take seconds."""
        if self._lookup is None:
            self._lookup = asyncio.create_task(self._looked_up())
            self._lookup.add_done_callback(lambda lookup: lookup.cancelled() or lookup.exception())  # all may have left
        return await asyncio.shield(self._lookup)

    async def _looked_up(self) -> Addresses:
        try:
            return await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        finally:
            self._lookup = None


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
