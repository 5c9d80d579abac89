"""A client that costs little, so that what it measures is the server: bytes out, a status and its time back."""

import asyncio
import time
from contextlib import suppress
from typing import cast

from msgspec import Struct


class Told(Struct, frozen=True):
    """An answer: its status, 0 where there was none, and the seconds that it took."""

    status: int
    seconds: float


class Client(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self._read = b""
        self._answer: asyncio.Future[int] | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of the protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is all the same why
        """Part of the protocol."""
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    def data_received(self, data: bytes) -> None:
        """Part of the protocol."""
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        lower = head.lower()
        length = int(lower.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length and not self._answer.done():
            self._read = b""
            if b"\r\nconnection: close" in lower:
                self.close()
            self._answer.set_result(int(head[9:12]))

    async def ask(self, request: bytes, patience: float) -> int:
        """The status of the answer; 0 where the connection broke or it took too long."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(patience):
                return await self._answer
        except TimeoutError:
            self.close()
            return 0

    def write(self, data: bytes) -> None:
        """Sends bytes, of what may be no request."""
        self._transport.write(data)

    def close(self) -> None:
        """Ends it."""
        self.is_open = False
        self._transport.close()


class Pool:
    """As many connections as it takes to send each request at its time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Client] = []

    async def ask(self, request: bytes, patience: float = 60.0) -> Told:
        """What came back."""
        began, status = time.perf_counter(), 0
        with suppress(OSError):
            client = await self._client()
            status = await client.ask(request, patience)
            if client.is_open:
                self._free.append(client)
        return Told(status, time.perf_counter() - began)

    async def _client(self) -> Client:
        while self._free:
            client = self._free.pop()
            if client.is_open:
                return client
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", self._port)
        return client

    def close(self) -> None:
        """Ends all that are free."""
        for client in self._free:
            client.close()


def percentile(seconds: list[float], share: float) -> float:
    """The value in milliseconds below which that share of them lies."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
