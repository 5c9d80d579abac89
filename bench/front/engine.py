"""An engine elsewhere with so many places, each of which takes a fixed time for an answer: its capacity is known.

`python -m bench.front.engine PORT PLACES SECONDS`
"""

import asyncio
import sys
from functools import partial
from typing import Any

import uvicorn
import uvloop

from gateway.http1 import Connection, Lobby

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1795231089,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"a small red triangle"},"finish_reason":"stop"}],"usage":{"prompt_tokens":66,'
    b'"completion_tokens":15,"total_tokens":81}}'
)


def main() -> None:
    """Serves until it is ended."""
    port, places, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    uvloop.run(_serve(port, places, seconds))


async def _serve(port: int, places: int, seconds: float) -> None:
    free = asyncio.Semaphore(places)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        if scope["method"] == "POST":
            async with free:
                await asyncio.sleep(seconds)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})

    http: Any = partial(Connection, Lobby(max_connections=10_000, keep_alive=600, body_timeout=600))
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, http=http)
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    main()
