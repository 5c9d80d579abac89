"""A server that is played by the test: it sees every byte of each connection, and sends what it is told."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from yarl import URL

from gateway.http1_client import Client, Response

Headers = Mapping[str, str]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Caller:
    """One connection, as the server has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> tuple[bytes, bytes]:
        """The head and the body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0")
        return head, await self.reader.readexactly(int(length.partition(b":")[2]))

    async def answer(self, data: bytes) -> None:
        """Sends those bytes as the answer to the next request."""
        await self.request()
        self.writer.write(data)

    async def left(self) -> None:
        """Returns when the client has closed the connection, whatever it has sent before."""
        with suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                while await self.reader.read(65536):
                    pass


class Peer:
    """A server on loopback."""

    def __init__(self) -> None:
        self._callers: asyncio.Queue[Caller] = asyncio.Queue()
        self.port = 0
        self._seen: list[Caller] = []
        self._clients: list[Client] = []

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Peer"]:
        """Serves until the block ends."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._seen.append(Caller(reader, writer))
            await self._callers.put(self._seen[-1])

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for client in self._clients:
                client.close()
            for caller in self._seen:
                await caller.left()
                caller.writer.transport.abort()
                with suppress(OSError):
                    await caller.writer.wait_closed()

    async def caller(self) -> Caller:
        """The next connection."""
        async with asyncio.timeout(20):
            return await self._callers.get()

    @property
    def nobody_came(self) -> bool:
        """Whether there is no connection that the test has not had yet."""
        return self._callers.empty()

    def client(
        self, *, scheme: str = "http", host: str = "127.0.0.1", keep_alive: float = 60, headers: Headers | None = None
    ) -> Client:
        """A client of it."""
        client = Client.of(URL(f"{scheme}://{host}:{self.port}/v1"), headers=headers, keep_alive=keep_alive)
        self._clients.append(client)
        return client


async def whole(response: Response) -> bytes:
    """All of the body."""
    blocks = []
    async with response:
        while block := await response.block():
            blocks.append(block)
    return b"".join(blocks)


async def asked(client: Client, caller: Caller, answer: bytes) -> tuple[int, bytes]:
    """Status and body of what the client makes of that answer, on a connection that is there already."""
    asking = asyncio.create_task(client.get("/", seconds=20))
    await caller.answer(answer)
    response = await asking
    return response.status, await whole(response)


async def first(client: Client, peer: Peer, answer: bytes) -> tuple[Caller, Response]:
    """The connection on which the client asks first, and the response to it."""
    asking = asyncio.create_task(client.get("/", seconds=20))
    caller = await peer.caller()
    await caller.answer(answer)
    return caller, await asking
