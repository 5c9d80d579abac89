"""Altgate as the first process of a container, whom the kernel spares every signal that it has no handler for."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateway.remote.servers import free_port

CHECKPOINT = Path(__file__).parents[2] / "engines/demo/checkpoint"
FIRST = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]
GATEWAY = ["-m", "gateway.cli", "serve", "--port"]
ENGINE = ["-m", "engines.blip", "--model=demo", f"--source={CHECKPOINT}", "--threads=1", "--port"]


@contextmanager
def first_process(words: list[str], port: int, folder: Path) -> Iterator[int]:
    """The process's id as this machine has it, once it listens; it is the first of its own namespace.

    Where no such namespace may be made, it is a process like others, which is to end as well.
    """
    possible = subprocess.run([*FIRST, "true"], capture_output=True, check=False).returncode == 0
    command = [*(FIRST if possible else ()), sys.executable, *words, str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _until(lambda: _listens(port), folder)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield int(children[0]) if possible else process.pid
        assert process.wait(30) == 0, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("words", [GATEWAY, ENGINE], ids=["gateway", "blip"])
def test_it_ends_when_it_is_told_to(words: list[str], tmp_path: Path) -> None:
    """Without an init in front of it: it has handlers of its own, and does not rely on a signal sent to itself."""
    (tmp_path / "altgate.toml").write_text("[engines]\npreload = []\n")

    with first_process(words, free_port(), tmp_path) as pid:
        subprocess.run(["kill", "-TERM", str(pid)], check=True)


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
            return True
    except urllib.error.HTTPError:  # an engine that loads can be told to end as well
        return True
    except OSError:
        return False


def _until(well: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not well():
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
