"""An answer on its way to the client."""

from collections.abc import Callable, Mapping

from litestar.types import Send

STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Reply:
    """Sends an answer whole, or `streamed`, in pieces until its end.

    `headers` says what is known of it when it begins.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.streamed = False
        self.headers: Callable[[], Mapping[str, str]] = dict
        self.begun = False

    async def piece(self, data: bytes) -> None:
        """Sends a piece of it."""
        if not self.begun:
            await self._begin(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """Sends the last piece, or all of it."""
        if not self.begun:
            await self._begin(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _begin(self, data: bytes) -> None:
        self.begun = True
        kind = STREAM if self.streamed else {"content-type": "application/json", "content-length": str(len(data))}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in (kind | {**self.headers()}).items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded})
