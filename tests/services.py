"""Real programs that tests run: a redis-server of its own, and Altgate as a separate process."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry


class Redis:
    """A redis-server on a Unix socket; it can be stopped, continued and killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "redis.sock"
        self.url = f"unix://{self.path}"
        self.start()

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "install redis-server; `make test` does it or prints the line to run"
        arguments = ["--unixsocket", str(self.path), "--port", "0", "--save", "", "--loglevel", "warning"]
        self.process = subprocess.Popen([program, *arguments], cwd=self._folder, stdout=subprocess.DEVNULL)
        client = redis.Redis(unix_socket_path=str(self.path), retry=Retry(ConstantBackoff(0.05), 200))
        client.ping()
        client.close()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_redis(folder: Path) -> Iterator[Redis]:
    """A redis-server that ends with the context."""
    server = Redis(folder)
    try:
        yield server
    finally:
        server.kill()


class Server:
    """`altgate serve` in a process of its own, on a free port, its log in a file."""

    def __init__(self, process: "subprocess.Popen[str]", banner: str, log: Path) -> None:
        self.process = process
        self.banner = banner
        self.log = log
        found = re.search(r"Base URL: (http://\S+)/v1", banner)
        assert found is not None, banner
        self.root = found[1]
        self.base_url = f"{self.root}/v1"

    def engine_pids(self) -> list[int]:
        """The process ids of its engines; it has other children as well."""
        return [pid for pid in children(self.process.pid) if "engines." in command_line(pid)]

    def worker_pids(self) -> list[int]:
        """The process ids of its workers, where there are several."""
        return [pid for pid in children(self.process.pid) if "gateway.workers" in command_line(pid)]


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    """The process ids of all that a process has started, and they in turn."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def command_line(pid: int) -> str:
    """How a process was started; nothing of one that is not there any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@contextmanager
def running_server(
    folder: Path,
    *,
    settings: str = "",
    environ: Mapping[str, str] | None = None,
    module: str = "gateway.cli",
    port: int = 0,
) -> Iterator[Server]:
    """Altgate with those settings (TOML), once it listens at that port or a free one, until the context ends."""
    config = folder / "altgate.toml"
    config.write_text(settings)
    log = folder / "server.log"
    command = [sys.executable, "-m", module, "serve", "--port", str(port), "--config", str(config)]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=environ, cwd=folder)
    try:
        assert process.stdout is not None
        yield Server(process, _banner(process.stdout, log), log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def engine_socket(server: Server) -> socket.socket:
    """A connection to the server's only engine, past the gateway."""
    (pid,) = server.engine_pids()
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    (path,) = (word.removeprefix("--uds=") for word in words if word.startswith("--uds="))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _banner(lines: Iterator[str], log: Path) -> str:
    read: list[str] = []
    for line in lines:
        read.append(line)
        if "messages=..." in line:
            return "".join(read)
    raise AssertionError(f"the server ended before it listened: {''.join(read)}{log.read_text()}")


def wait_for_log(server: Server, line: str, times: int = 1) -> None:
    """Returns when the server's log has that line so often."""
    deadline = time.monotonic() + 30
    while server.log.read_text().count(line) < times:
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.01)
