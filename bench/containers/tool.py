"""What builds and runs images: docker and podman, which are asked alike, or buildah."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.containers.context import Pip

SEARCHED = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")


class Running(Protocol):
    """A container that runs."""

    def ask(self, *command: str, within: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """Runs a command in it, as its user."""

    def stop(self) -> int:
        """Asks it to end, as `stop` does, and returns its exit status."""

    def log(self) -> str:
        """What it has printed."""


class Run(NamedTuple):
    """How a container is started: with words for its entry point or for another program, folders and files of ours by
    their place in it, an environment, and the network of another that runs (None: with none).
    """

    program: str | None = None
    words: Sequence[str] = ()
    mounts: Mapping[str, Path] = {}
    environ: Mapping[str, str] = {}
    beside: Running | None = None


class Tool(Protocol):
    """A program that builds and runs images."""

    name: str

    def pull(self, image: str) -> bool:
        """Gets an image from its registry; whether that was possible."""

    def has(self, image: str) -> bool:
        """Whether the image is here."""

    def take(self, tree: Path, image: str) -> None:
        """Makes an image of a folder."""

    def runs(self, image: str) -> bool:
        """Whether a program of the image can be run here: some tools are there and cannot."""

    def build(self, target: str, image: str, sources: Path, arguments: Mapping[str, str], pip: Pip) -> None:
        """Builds a target of the Dockerfile."""

    def size(self, image: str) -> int:
        """The bytes of its files."""

    @contextmanager
    def run(self, image: str, how: Run = Run()) -> Iterator[Running]:  # noqa: B008 - it is frozen
        """Runs an image: as its own user, on a read-only root with a writable /tmp, without capabilities."""


def present(environ: Mapping[str, str]) -> Iterator[Tool]:
    """The tool that was asked for, or all that answer."""
    from bench.containers.buildah import Buildah  # noqa: PLC0415 - it needs what is defined here

    tools: list[Tool] = [Engine("docker"), Engine("podman"), Buildah()]
    wanted = environ.get("CONTAINER_TOOL")
    yield from (tool for tool in tools if (tool.name == wanted if wanted else _answers(tool.name)))


def _answers(program: str) -> bool:
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0


def build_words(target: str, image: str, sources: Path, arguments: Mapping[str, str], pip: Pip) -> list[str]:
    """The words of a build that all of them understand."""
    return [
        f"--target={target}",
        f"--tag={image}",
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *([f"--secret=id=pip,src={pip.file}"] if pip.file is not None else ()),
        str(sources),
    ]


class Engine:
    """docker or podman."""

    def __init__(self, name: str) -> None:
        self.name = name

    def pull(self, image: str) -> bool:
        """See `Tool`."""
        return self._asked("pull", "--quiet", image).returncode == 0

    def has(self, image: str) -> bool:
        """See `Tool`."""
        return self._asked("image", "inspect", image).returncode == 0

    def take(self, tree: Path, image: str) -> None:
        """See `Tool`."""
        with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(
                [self.name, "import", f"--change=ENV {SEARCHED}", "-", image],
                stdin=packed.stdout,
                check=True,
                capture_output=True,
            )

    def runs(self, image: str) -> bool:
        """See `Tool`."""
        return self._asked("run", "--rm", "--network=none", *LIMITS, image, "true").returncode == 0

    def build(self, target: str, image: str, sources: Path, arguments: Mapping[str, str], pip: Pip) -> None:
        """See `Tool`. docker lets a build see no folder of this machine; podman does, for an index that is one."""
        own = (
            ["--format=docker", *LIMITS, *(f"--volume={folder}:{folder}:ro" for folder in pip.folders)]
            if self.name == "podman"
            else []
        )
        words = build_words(target, image, sources, arguments, pip)
        subprocess.run([self.name, "build", "--quiet", *own, *words], check=True, stdout=subprocess.DEVNULL)

    def size(self, image: str) -> int:
        """See `Tool`."""
        return int(json.loads(self._asked("image", "inspect", image).stdout)[0]["Size"])

    @contextmanager
    def run(self, image: str, how: Run = Run()) -> Iterator[Running]:  # noqa: B008 - it is frozen
        """See `Tool`."""
        network = f"container:{how.beside.number}" if isinstance(how.beside, _Container) else "none"
        command = [
            *("run", "--detach", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
            *LIMITS,
            f"--network={network}",
            *(f"--volume={ours}:{place}:ro" for place, ours in how.mounts.items()),
            *(f"--env={name}={value}" for name, value in how.environ.items()),
            *([f"--entrypoint={how.program}"] if how.program is not None else ()),
            image,
            *how.words,
        ]
        started = self._asked(*command)
        if started.returncode:
            raise RuntimeError(started.stderr)
        container = _Container(self.name, started.stdout.strip())
        try:
            yield container
        finally:
            self._asked("rm", "--force", container.number)

    def _asked(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self.name, *words], capture_output=True, text=True, check=False)


class _Container:
    def __init__(self, tool: str, number: str) -> None:
        self.number = number
        self._tool = tool

    def ask(self, *command: str, within: float = 30.0) -> "subprocess.CompletedProcess[str]":
        words = [self._tool, "exec", self.number, *command]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=within)

    def stop(self) -> int:
        subprocess.run([self._tool, "stop", "--time=30", self.number], capture_output=True, check=True)
        told = subprocess.run([self._tool, "wait", self.number], capture_output=True, text=True, check=True)
        return int(told.stdout)

    def log(self) -> str:
        told = subprocess.run([self._tool, "logs", self.number], capture_output=True, text=True, check=False)
        return told.stdout + told.stderr
