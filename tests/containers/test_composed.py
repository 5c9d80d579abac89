"""What `docker compose up` starts, as processes of this machine: the services' own commands, health checks and secrets.

Only places differ: ports that are free here, this machine's address for the services' names, the folders of the first
run for where a container has them mounted.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest
import redis

from tests.containers.deployment import ROOT, Stage, line, services, stages

PORTS = {"redis": "6379", "blip": "8001", "gateway": "8000"}  # in the order in which they are waited for
CAPTION = "a small red triangle left of a small green square on a black background"


class Deployment:
    """The services that start by default, each once the one before is well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "containers", folder / "containers")
        told = subprocess.run(["sh", folder / "containers/first-run.sh"], capture_output=True, text=True, check=True)
        self.key = next(word for word in told.stdout.split() if word.startswith("ag-"))
        self.ports = free_ports()
        for file in (folder / "config/altgate.toml", folder / "secrets/redis_url"):
            file.write_text(self.here(file.read_text()))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str) -> str:
        """The text with the places that things have here."""
        for name, port in PORTS.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
            text = text.replace(f"--port={port}", f"--port={self.ports[name]}").replace(
                f"engines.health {port}", f"engines.health {self.ports[name]}"
            )
        text = text.replace("/run/secrets", str(self.folder / "secrets"))
        return text.replace("/opt/altgate/code", str(ROOT))

    def start(self, name: str) -> None:
        """Starts a service as its container is started, and waits until its health check says that it is well."""
        service = services()[name]
        stage = stages()[service["build"]["target"]] if "build" in service else None
        words = [self.here(word) for word in line(service)]
        words = [word if word != "python" else sys.executable for word in words]
        words[0] = shutil.which(words[0], path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or words[0]
        if name == "redis":
            words += ["--port", str(self.ports["redis"])]
        with (self.folder / f"{name}.log").open("w") as log:
            self.running[name] = subprocess.Popen(
                words, env=self.environ(name, stage), cwd=self.place(name), stdout=log, stderr=subprocess.STDOUT
            )
        self.wait(name, self.health(name, stage))

    def environ(self, name: str, stage: Stage | None) -> dict[str, str]:
        """The image's environment and the service's over it."""
        own = {**(stage.environ if stage else {}), **services()[name].get("environment", {})}
        own = {key: self.here(value) for key, value in own.items() if key != "PATH" and value}
        port = {"ALTGATE_SERVER__PORT": str(self.ports["gateway"])} if name == "gateway" else {}
        return {**os.environ, **own, **port, "PYTHONPATH": str(ROOT)}

    def place(self, name: str) -> Path:
        """The folder in which it is started."""
        places = {"gateway": self.folder / "config", "redis": self.folder / "data"}
        place = places.get(name, self.folder)
        place.mkdir(exist_ok=True)
        return place

    def health(self, name: str, stage: Stage | None) -> str:
        """The health check, as a line for the shell."""
        check: list[str] = services()[name].get("healthcheck", {}).get("test", [])
        text = check[1] if check else shlex.join(stage.health if stage else [])
        text = text.replace("redis-cli", f"redis-cli -p {self.ports['redis']}")
        return self.here(text).replace("python ", f"{sys.executable} ", 1)

    def wait(self, name: str, check: str) -> None:
        """Returns once the check succeeds."""
        deadline = time.monotonic() + 90
        while subprocess.run(["sh", "-c", check], cwd=ROOT, capture_output=True, check=False).returncode:
            log = (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline, log
            assert self.running[name].poll() is None, log
            time.sleep(0.5)  # each look is a program that starts

    def get(self, path: str, body: bytes | None = None, key: str | None = None) -> tuple[int, bytes]:
        """Asks the gateway; status and body."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['gateway']}{path}", body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()


def free_ports() -> dict[str, int]:
    """A port for each service."""
    held = {name: socket.create_server(("127.0.0.1", 0)) for name in PORTS}
    ports = {name: each.getsockname()[1] for name, each in held.items()}
    for each in held.values():
        each.close()
    return ports


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    """All of it; with the context each ends by a container's signal, with a status that says that all is well."""
    deployment = Deployment(folder)
    try:
        for name in PORTS:
            deployment.start(name)
        yield deployment
        for name in reversed([*PORTS]):
            deployment.running[name].send_signal(signal.SIGTERM)
            assert deployment.running[name].wait(30) == 0, (folder / f"{name}.log").read_text()
    finally:
        for process in deployment.running.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Started once, and ended in order."""
    with deployed(tmp_path_factory.mktemp("compose")) as running:
        yield running


def test_one_curl_answers(deployment: Deployment) -> None:
    """The README's request with the key of the first run; ready before long, and nothing without the key."""
    request = (ROOT / "engines/demo/request.json").read_bytes()
    deadline = time.monotonic() + 30
    while deployment.get("/ready")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    status, answer = deployment.get("/v1/chat/completions", request, deployment.key)

    assert (status, json.loads(answer)["choices"][0]["message"]["content"]) == (200, CAPTION)
    assert deployment.get("/v1/chat/completions", request)[0] == 401


def test_answers_are_kept_in_redis(deployment: Deployment) -> None:
    """Which lets nobody in without its password, and has the bounds that the compose file gives it."""
    url = (deployment.folder / "secrets/redis_url").read_text().strip()
    request = (ROOT / "engines/demo/request.json").read_bytes()
    assert deployment.get("/v1/chat/completions", request, deployment.key)[0] == 200

    with redis.Redis.from_url(url) as store:
        deadline = time.monotonic() + 30
        while not (keys := store.keys()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        bounds = store.config_get("maxmemory*")
    with redis.Redis(port=deployment.ports["redis"]) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.keys()

    assert keys
    assert (bounds["maxmemory"], bounds["maxmemory-policy"]) == (str(256 * 2**20), "volatile-lru")
