"""Redis in its other forms, as real processes: with TLS, watched by a Sentinel, as a cluster of one."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.gateway.remote.servers import free_port

SUBJECT = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@contextmanager
def server(folder: Path, *options: str, **connection: Any) -> Iterator[int]:
    """A redis-server with those options on a free port, once it answers who connects so."""
    program, port = shutil.which("redis-server"), free_port()
    assert program is not None
    port_options = ["--tls-port", str(port), "--port", "0"] if connection.get("ssl") else ["--port", str(port)]
    command = [program, *port_options, "--save", "", "--dir", str(folder), "--loglevel", "warning", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _until_it_answers(redis.Redis(port=port, **connection))
        yield port
    finally:
        process.kill()
        process.wait()


def _until_it_answers(client: "redis.Redis") -> None:
    deadline = time.monotonic() + 20
    while True:
        with suppress(redis.ConnectionError):
            client.ping()
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.close()


@contextmanager
def cluster(folder: Path) -> Iterator[int]:
    """A cluster of one node that has all slots."""
    with server(folder, "--cluster-enabled", "yes") as port:
        with redis.Redis(port=port) as client:
            client.execute_command("cluster", "addslotsrange", 0, 16383)
            deadline = time.monotonic() + 20
            while b"cluster_state:ok" not in client.execute_command("cluster", "info", NEVER_DECODE=True):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield port


@contextmanager
def sentinel(folder: Path, master: int, password: str) -> Iterator[int]:
    """A Sentinel that watches the server on that port as the service `main`."""
    program, port = shutil.which("redis-server"), free_port()
    assert program is not None
    file = folder / "sentinel.conf"
    file.write_text(
        f"port {port}\ndir {folder}\nrequirepass {password}\nsentinel monitor main 127.0.0.1 {master} 1\n"
        f"sentinel auth-pass main {password}\n"
    )
    process = subprocess.Popen([program, str(file), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        _until_it_answers(redis.Redis(port=port, password=password))
        yield port
    finally:
        process.kill()
        process.wait()


def certificates(folder: Path) -> dict[str, str]:
    """An authority, and one certificate made by it for server and client alike, as paths."""
    files = {name: str(folder / name) for name in ("ca.crt", "ca.key", "one.csr", "one.crt", "one.key", "names")}
    Path(files["names"]).write_text(SUBJECT)
    new = "-newkey rsa:2048 -nodes"
    authority = f"-CA {files['ca.crt']} -CAkey {files['ca.key']} -CAcreateserial"
    for command in (
        f"req -x509 {new} -days 2 -subj /CN=authority -keyout {files['ca.key']} -out {files['ca.crt']}",
        f"req {new} -subj /CN=localhost -keyout {files['one.key']} -out {files['one.csr']}",
        f"x509 -req -days 2 -in {files['one.csr']} {authority} -extfile {files['names']} -out {files['one.crt']}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    return files
