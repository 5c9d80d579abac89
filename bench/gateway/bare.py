"""A pass-through that does nothing else, for comparison: `python -m bench.gateway.bare PORT URL`."""

import sys
from typing import Any

import aiohttp
import uvicorn


class PassThrough:
    """An ASGI application that posts what it gets to `url`, and answers with what comes back."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        blocks, more = [], True
        while more:
            message = await receive()
            blocks.append(message["body"])
            more = message.get("more_body", False)
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=b"".join(blocks), headers=headers) as response:
            answer = await response.read()
        length = str(len(answer)).encode()
        said = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": response.status, "headers": said})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        PassThrough(sys.argv[2]), port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="error", ws="none"
    )
