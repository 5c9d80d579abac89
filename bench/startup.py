"""How fast `altgate serve` is there, and how much memory its own process takes: `python bench/startup.py`.

Each start is measured beside a baseline in the same run: a bare Litestar application with one route, on uvicorn, from
the same environment. The engine's process is not counted in the memory; it is what the gateway exists to keep outside.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROUNDS = 5
REQUESTS = 50
ROOT = Path(__file__).parents[1]
BARE = (
    "import socket, uvicorn; from litestar import Litestar, get\n"
    "@get('/health')\n"
    "async def health() -> str: return 'ok'\n"
    "listener = socket.create_server(('127.0.0.1', 0))\n"
    "print(f'Base URL: http://127.0.0.1:{listener.getsockname()[1]}/v1', flush=True)\n"
    "config = uvicorn.Config(Litestar([health]), log_config=None)\n"
    "uvicorn.Server(config).run(sockets=[listener])\n"
)


def main() -> None:
    """Prints the table."""
    altgate = [sys.executable, "-m", "gateway.cli", "serve", "--port", "0"]
    rows = [(_start(altgate, model="demo"), _start([sys.executable, "-c", BARE], model=None)) for _ in range(ROUNDS)]
    names = ("first answer of /health", "first caption", "memory once it has answered")
    print(f"medians of {ROUNDS} starts; {REQUESTS} captions before the memory is read\n")
    print(f"{'':30}{'altgate':>12}{'bare app':>12}")
    for at, (name, unit) in enumerate(zip(names, ("s", "s", "MB"), strict=True)):
        ours = statistics.median(row[0][at] for row in rows)
        bare = statistics.median(row[1][at] for row in rows)
        print(f"{name:30}{ours:9.2f} {unit:2}{bare:9.2f} {unit:2}")


def _start(command: Sequence[str], *, model: str | None) -> tuple[float, float, float]:
    """Seconds to /health, seconds to the first caption (0 without a model), megabytes of the process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder, env=_environ()
        )
        try:
            root = _root(process)
            _read(f"{root}/health")
            healthy = time.perf_counter() - started
            captioned = 0.0
            if model is not None:
                body = (ROOT / "engines/demo/request.json").read_bytes()
                for _ in range(REQUESTS):
                    _read(f"{root}/v1/chat/completions", body)
                    captioned = captioned or time.perf_counter() - started
            return healthy, captioned, _resident_megabytes(process.pid)
        finally:
            process.terminate()
            process.wait()


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _root(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Base URL: (http://\S+)/v1", line):
            return found[1]
    raise SystemExit("the server did not start")


def _read(url: str, body: bytes | None = None) -> bytes:
    """The answer; a connection that is refused because the server is about to listen is tried again."""
    request = urllib.request.Request(url, body, {"content-type": "application/json", "cache-control": "no-store"})
    for _ in range(1000):
        try:
            with urllib.request.urlopen(request) as response:
                return bytes(response.read())
        except OSError:
            time.sleep(0.005)
    raise SystemExit(f"{url} does not answer")


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else float("nan")


if __name__ == "__main__":
    main()
