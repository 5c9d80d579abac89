"""A client of one server."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from yarl import URL

from gateway.http1_client.connection import Connection, Pool
from gateway.http1_client.dialling import InternetWay, UnixWay, Way
from gateway.http1_client.faults import BrokenOff, NotConnected
from gateway.http1_client.response import Response

CONNECT_TIMEOUT = 5.0  # seconds, names and encryption included

_VALUE = re.compile(r"[\t -~\xa0-\xff]*")  # of a header


class Client:
    """Asks one server. Redirects are not followed, cookies not kept, and answers not unpacked.

    Args:
        way: how it is reached.
        host: what it is called in requests.
        headers: what every request says.
        keep_alive: seconds for which a connection is kept for the next request; 0 makes a new one for each.

    Raises:
        ValueError: a header would break a request.
    """

    def __init__(self, way: Way, host: str, *, headers: Mapping[str, str] | None = None, keep_alive: float) -> None:
        self._way = way
        self._pool = Pool(keep_alive)
        # A compressed answer could unfold to any size.
        fixed = {"Host": host, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        if not keep_alive:
            fixed["Connection"] = "close"
        self._headers = _lines(fixed)

    @classmethod
    def of(cls, url: URL, *, headers: Mapping[str, str] | None = None, keep_alive: float) -> Self:
        """A client of the server that an http or https URL names."""
        return cls(InternetWay(url), url.host_port_subcomponent or "", headers=headers, keep_alive=keep_alive)

    @classmethod
    def at(cls, path: str) -> Self:
        """A client of the server on a Unix socket, which has a connection for each request."""
        return cls(UnixWay(path), "engine", keep_alive=0)

    async def get(self, target: str, *, seconds: float) -> Response:
        """The answer to a GET, as soon as its head is here.

        A server may close a connection just as it is used again. So what broke off on one that was kept is asked once
        more on a new one; a POST is not, for nobody knows whether it was heard.

        Raises:
            TransferError: there is none.
            TimeoutError: it took longer than so many seconds, which hold for its body as well.
        """
        request = (_start("GET", target), self._headers, b"\r\n")
        ends = time.monotonic() + seconds
        if kept := self._pool.take():
            with suppress(BrokenOff):
                return await _answered(kept, request, seconds)
        return await self._sent(request, ends - time.monotonic())

    async def post(
        self, target: str, body: bytes = b"", *, seconds: float, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer to a POST of JSON, as soon as its head is here.

        Raises:
            TransferError: there is none.
            TimeoutError: it took longer than so many seconds, which hold for its body as well.
        """
        length = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        head = _start("POST", target) + self._headers + (_lines(headers) if headers else b"") + length
        request = (head, body) if body else (head,)
        if kept := self._pool.take():
            return await _answered(kept, request, seconds)
        return await self._sent(request, seconds)

    def close(self) -> None:
        """Ends all connections, whatever is under way on them."""
        self._pool.close()

    async def _sent(self, request: Sequence[bytes], seconds: float) -> Response:
        """The answer on a new connection."""
        ends = time.monotonic() + seconds
        connection = await self._dialled(seconds)
        return await _answered(connection, request, ends - time.monotonic())

    async def _dialled(self, seconds: float) -> Connection:
        try:
            async with asyncio.timeout(min(seconds, CONNECT_TIMEOUT)):
                return await self._way.dial(lambda: Connection(self._pool))
        except OSError as error:
            if isinstance(error, TimeoutError) and seconds <= CONNECT_TIMEOUT:
                raise
            raise NotConnected from error


async def _answered(connection: Connection, request: Sequence[bytes], seconds: float) -> Response:
    response = connection.ask(request, seconds)
    try:
        return await response.begun()
    except BaseException:
        response.leave()
        raise


def _start(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")


def _lines(headers: Mapping[str, str]) -> bytes:
    for name, value in headers.items():
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name} would break a request")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
