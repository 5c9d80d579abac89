"""The ways to a server: TCP, with or without TLS, and a Unix socket."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol, TypeVar

import aiohappyeyeballs
from yarl import URL

HEAD_START = 0.25  # seconds for each of a name's addresses until the next one is tried as well

T = TypeVar("T", bound=asyncio.Protocol)


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

    async def dial(self, make: Callable[[], T]) -> T:
        """As `Way` has it. Of a name's addresses those that do not answer cost a quarter of a second each."""
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # the host's name is one that no name can be
            raise OSError("no name") from error
        peer = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=HEAD_START)
        try:
            name = self._host if self._tls else None
            _, protocol = await loop.create_connection(make, sock=peer, ssl=self._tls, server_hostname=name)
        except BaseException:
            peer.close()
            raise
        return protocol


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
