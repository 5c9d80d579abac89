"""buildah, for machines on which no container engine runs: it builds in a chroot, and what it built is run by the
kernel's own means, namespaces and a read-only mount, by util-linux's programs. Needs root.
"""

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.containers.context import Pip
from bench.containers.tool import SEARCHED, Run, Running, build_words

ISOLATED = ("--isolation=chroot",)
STOP_PATIENCE = 30.0  # seconds
# The first process of namespaces of its own makes the container's places, locks the root and becomes what runs in it.
ENTER = """
set -e
mount --bind {root} {root}
{mounts}
mount -o remount,bind,ro {root}
mount -t tmpfs -o mode=1777,size=64m tmpfs {root}/tmp
mount -t proc proc {root}/proc
mount -t tmpfs -o mode=755 tmpfs {root}/dev
mkdir -m 1777 {root}/dev/shm
for device in null zero random urandom; do touch {root}/dev/$device; mount --bind /dev/$device {root}/dev/$device; done
cd {root}
ip link set lo up
exec setpriv --no-new-privs env -i {environ} \
    /usr/sbin/chroot --userspec={user} --groups= {root} /bin/sh -c 'cd "$0" && exec "$@"' {directory} {words}
"""


class Buildah:
    """See `Tool`."""

    name = "buildah"

    def pull(self, image: str) -> bool:
        """See `Tool`."""
        return self._asked("pull", "--quiet", image).returncode == 0

    def has(self, image: str) -> bool:
        """See `Tool`."""
        return self._asked("inspect", "--type=image", image).returncode == 0

    def take(self, tree: Path, image: str) -> None:
        """See `Tool`."""
        number = self._told("from", "scratch")
        self._told("copy", "--quiet", number, str(tree), "/")
        self._told("config", "--cmd=/bin/sh", f"--env={SEARCHED}", number)
        self._told("commit", "--quiet", "--rm", number, image)

    def runs(self, image: str) -> bool:
        """See `Tool`."""
        number = self._told("from", "--pull-never", image)
        try:
            return self._asked("run", *ISOLATED, number, "true").returncode == 0
        finally:
            self._told("rm", number)

    def build(self, target: str, image: str, sources: Path, arguments: Mapping[str, str], pip: Pip) -> None:
        """See `Tool`."""
        own = ["--layers", "--format=docker", *ISOLATED, *(f"--volume={folder}:{folder}:ro" for folder in pip.folders)]
        self._told("build", "--quiet", *own, *build_words(target, image, sources, arguments, pip))

    def size(self, image: str) -> int:
        """See `Tool`."""
        with self._mounted(image) as root:
            counted = subprocess.run(["du", "-sxb", root], capture_output=True, text=True, check=True)
        return int(counted.stdout.split()[0])

    @contextmanager
    def run(self, image: str, how: Run = Run()) -> Iterator[Running]:  # noqa: B008 - it is frozen
        """See `Tool`."""
        settings: dict[str, Any] = json.loads(self._told("inspect", "--type=image", image))["Docker"]["config"]
        with self._mounted(image) as root, tempfile.TemporaryFile("w+") as log:
            script = _script(root, settings, how)
            network = ["--net"] if how.beside is None else []
            command = ["unshare", "--mount", "--pid", "--ipc", *network, "--fork", "--kill-child", "sh", "-c", script]
            if isinstance(how.beside, _Process):
                command = ["nsenter", f"--target={how.beside.pid}", "--net", *command]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                yield _Process(process, log, str(settings["User"]), dict(_environment(settings, how)))
            finally:
                # Its child as well, which has forgotten whose child it is when it became another user.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @contextmanager
    def _mounted(self, image: str) -> Iterator[str]:
        number = self._told("from", "--pull-never", image)
        try:
            yield self._told("mount", number)
        finally:
            self._asked("umount", number)
            self._asked("rm", number)

    def _told(self, *words: str) -> str:
        done = self._asked(*words)
        if done.returncode:
            raise RuntimeError(f"buildah {' '.join(words)}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    def _asked(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["buildah", *words], capture_output=True, text=True, check=False)


def _script(root: str, settings: Mapping[str, Any], how: Run) -> str:
    entry = settings.get("Entrypoint") or () if how.program is None else [how.program]
    words = [*entry, *(how.words or settings.get("Cmd") or ())]
    for place, ours in how.mounts.items():
        inside = Path(root + place)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.mkdir(exist_ok=True) if ours.is_dir() else inside.touch()
    return ENTER.format(
        root=shlex.quote(root),
        mounts="\n".join(_mount(str(ours), root + place) for place, ours in how.mounts.items()),
        environ=shlex.join(f"{name}={value}" for name, value in _environment(settings, how)),
        user=settings["User"],
        directory=shlex.quote(settings.get("WorkingDir") or "/"),
        words=shlex.join(words),
    )


def _mount(ours: str, place: str) -> str:
    return f"mount --bind {shlex.quote(ours)} {shlex.quote(place)}\nmount -o remount,bind,ro {shlex.quote(place)}"


def _environment(settings: Mapping[str, Any], how: Run) -> Iterator[tuple[str, str]]:
    yield "HOME", "/tmp"
    for setting in settings["Env"]:
        name, _, value = setting.partition("=")
        yield name, value
    yield from how.environ.items()


class _Process:
    """A container's first process, and the way into its namespaces."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Any, user: str, environ: Mapping[str, str]) -> None:
        self._process = process
        self._log = log
        self._user, _, self._group = user.partition(":")
        self._environ = environ

    @property
    def pid(self) -> int:
        """The first process, as this machine numbers it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + STOP_PATIENCE
        while not (numbers := children.read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return int(numbers[0])

    def ask(self, *command: str, within: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """See `Running`."""
        entered = [
            *("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--root", "--wd"),
            *(f"--setuid={self._user}", f"--setgid={self._group or self._user}"),
            *("env", "-i", *(f"{name}={value}" for name, value in self._environ.items())),
        ]
        return subprocess.run([*entered, *command], capture_output=True, text=True, check=False, timeout=within)

    def stop(self) -> int:
        """See `Running`."""
        subprocess.run(["kill", "-TERM", str(self.pid)], check=True)
        return self._process.wait(STOP_PATIENCE)

    def log(self) -> str:
        """See `Running`."""
        self._log.seek(0)
        return str(self._log.read())
