"""What reading and writing HTTP costs: `python -m bench.front.protocols`; it needs wrk.

The same application, which reads a body and says ok, served by uvicorn with h11, with its own class on httptools, and
with ours, in turn. The server has a core of its own; the rates are requests a second.
"""

import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from socket import create_connection
from typing import Any

import uvicorn

from bench.front.overload import free_port, on_core
from gateway.http1 import Connection, Lobby

KINDS = ("h11", "httptools", "ours")
BODIES = {"200 bytes": 200, "214 KB": 214_000, "2.1 MB": 2_140_000}
ROUNDS, SECONDS = 2, 2
SCRIPT = """
wrk.method, wrk.body = "POST", string.rep("x", {size})
wrk.headers["content-type"], wrk.headers["authorization"] = "application/json", "Bearer abc"
"""


def main() -> None:
    """Prints a line for each size of body; with arguments, serves."""
    if len(sys.argv) > 1:
        serve(sys.argv[1], int(sys.argv[2]))
        return
    print("           " + "".join(f"{kind:>12}" for kind in KINDS))
    for name, size in BODIES.items():
        rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for kind in KINDS * ROUNDS:
            rates[kind].append(rate(kind, size))
        print(f"{name:11}" + "".join(f"{max(rates[kind]):12.0f}" for kind in KINDS))


def rate(kind: str, size: int) -> float:
    """Requests a second, over sixteen connections."""
    port = free_port()
    server = subprocess.Popen(on_core(0, [sys.executable, "-m", "bench.front.protocols", kind, str(port)]))
    try:
        _wait(port)
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "post.lua"
            script.write_text(SCRIPT.format(size=size))
            command = ["wrk", "-t1", "-c16", f"-d{SECONDS}s", "-s", str(script), f"http://127.0.0.1:{port}/"]
            told = subprocess.run(on_core(1, command), capture_output=True, text=True, check=True).stdout
    finally:
        server.kill()
        server.wait()
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    return float(found[1]) if found else 0.0


def serve(kind: str, port: int) -> None:
    """Serves until it is ended."""
    lobby = Lobby(max_connections=1000, keep_alive=60, body_timeout=60)
    http: Any = partial(Connection, lobby) if kind == "ours" else kind
    uvicorn.run(app, port=port, lifespan="off", log_config=None, access_log=False, http=http)


async def app(_: Any, receive: Any, send: Any) -> None:
    """Reads the body and says ok."""
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2"), (b"x-request-id", b"req_0123456789")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def _wait(port: int) -> None:
    while True:
        try:
            create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    main()
