"""A server of ours in the test's own loop, on a real socket, and a client that says what it is told, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from gateway.http1 import Connection, Lobby

GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


def post(length: int, more: bytes = b"") -> bytes:
    """The head of a POST with a body of that many bytes."""
    return b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n" % (length, more)


async def until(holds: Callable[[], bool]) -> None:
    """Returns when it holds."""
    while not holds():
        await asyncio.sleep(0.005)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and tells what was asked."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    told = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode()}
    await answered(send, json.dumps(told | {"headers": headers, "body": body.decode("latin-1")}).encode())


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    """Answers without a look at the body."""
    await answered(send, b"no", status=429)


async def answered(send: Any, body: bytes, status: int = 200) -> None:
    """Sends a whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


class Served:
    """The server: who is connected to it, and a way to connect."""

    def __init__(self, port: int, state: ServerState) -> None:
        self._port = port
        self.state = state
        self.clients: list[Client] = []

    @property
    def connections(self) -> list[Connection]:
        """The connections that are open, as the server has them."""
        return cast("list[Connection]", [*self.state.connections])

    async def client(self, *, limit: int = 2**16) -> "Client":
        """A new connection; `limit` is what it buffers of what it is sent, in bytes."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self._port, limit=limit))
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> bytes:
        """All that comes back for `data` until the server closes."""
        client = await self.client()
        await client.send(data)
        return await client.rest()

    def shut_down(self) -> None:
        """What uvicorn does with its connections when it ends."""
        for connection in self.connections:
            connection.shutdown()


class Client:
    """One connection to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], Any]:
        """Sends `data` and reads one answer: status, headers, and the body, decoded where it is JSON."""
        await self.send(data)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """One answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(status.split()[1]), headers, json.loads(body) if body[:1] == b"{" else body

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        return await self.reader.read()


@asynccontextmanager
async def serving(
    app: Callable[..., Any], *, max_connections: int = 100, keep_alive: float = 60, body_timeout: float = 60
) -> AsyncIterator[Served]:
    """A server with those limits (seconds), until the context ends."""
    lobby = Lobby(max_connections=max_connections, keep_alive=keep_alive, body_timeout=body_timeout)
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(lobby, config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    served = Served(server.sockets[0].getsockname()[1], state)
    try:
        async with asyncio.timeout(20):
            yield served
    finally:
        server.close()
        for client in served.clients:
            client.writer.transport.abort()
        for connection in served.connections:
            connection.transport.abort()
        await asyncio.sleep(0)
