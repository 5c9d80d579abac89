"""What the images promise, seen from outside and from inside."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.containers.context import ROOT
from bench.containers.tool import Run, Running, Tool
from engines.demo import scenes
from tests import pictures
from tests.engines.blip import hub

PATIENCE = 120.0  # seconds
MOST_BYTES = 200 * 10**6  # of the gateway's image
UID = "10001"
WHO = """
import os
print(os.getuid())
for line in open("/proc/1/status"):
    if line.startswith(("CapEff", "NoNewPrivs")): print(line.split()[1])
try: open("/opt/altgate/x", "w")
except OSError as error: print(error.strerror)
open("/tmp/x", "w")
"""
ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode() or None, {"Authorization": "Bearer " + sys.argv[3]})
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
PLUGINS = "from importlib.metadata import entry_points; print(*entry_points(group='vllm.general_plugins').names)"


def gateway_alone(tool: Tool, folder: Path) -> None:
    """It answers /health as its user on a read-only root, refuses to be open to all, and ends when it is told to."""
    with tool.run("altgate-gateway") as open_to_all:
        _until(lambda: "no key is configured" in open_to_all.log(), open_to_all)
    assert tool.size("altgate-gateway") < MOST_BYTES
    with tool.run("altgate-gateway", Run(mounts=_first_run(folder / "alone"))) as gateway:
        _until_well(gateway, "8000")
        _assert_locked(gateway)
        assert _python(gateway, "import torch").returncode == 1
        began = time.monotonic()
        assert gateway.stop() == 0, gateway.log()
        print(f"gateway: well as user {UID} on a read-only root; ended {time.monotonic() - began:.1f} s after SIGTERM")


def blip_alone(tool: Tool) -> None:
    """It captions a scene with the bundled model, as its user on a read-only root."""
    with tool.run("altgate-blip") as blip:
        _until_well(blip, "8001")
        _assert_locked(blip)
        print(f"blip: {_caption(blip, '8001', '')!r}")
        assert blip.stop() == 0, blip.log()


def blip_downloaded(tool: Tool, folder: Path) -> None:
    """A model of the hub, downloaded beforehand as the service `weights` does, is loaded from a read-only volume."""
    name, weights = "Salesforce/blip-image-captioning-base", folder / "weights"
    with hub.serving(ROOT / "engines/demo/checkpoint", name) as address:
        environ = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(weights)}
        command = [sys.executable, "-m", "engines.weights", "blip-base"]
        subprocess.run(command, env=environ, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    words = ["--model=demo", f"--source={name}"]
    how = Run(words=words, mounts={"/weights": weights}, environ={"HF_HUB_OFFLINE": "1"})
    with tool.run("altgate-blip", how) as blip:
        _until_well(blip, "8001")
        print(f"blip, downloaded beforehand: {_caption(blip, '8001', '')!r}")


def together(tool: Tool, folder: Path) -> None:
    """The gateway with the first run's configuration asks the engine under the name that it has in the compose file."""
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost blip\n")
    mounts = _first_run(folder / "together") | {"/etc/hosts": hosts}
    key = (folder / "together" / "key").read_text()
    with (
        tool.run("altgate-blip") as blip,
        tool.run("altgate-gateway", Run(mounts=mounts, beside=blip)) as gateway,
    ):
        _until_well(blip, "8001")
        _until(lambda: _python(gateway, ASK, "http://127.0.0.1:8000/ready", "", key).returncode == 0, gateway)
        print(f"gateway and blip together: {_caption(gateway, '8000', key)!r}")


def vllm_plugin(tool: Tool) -> None:
    """Our launcher starts, and vLLM's plugin is declared."""
    with tool.run("altgate-vllm", Run(words=["--source=/nowhere", "--model=m"])) as launcher:
        _until(lambda: "altgate: the folder set as `source` holds no checkpoint" in launcher.log(), launcher)
    with tool.run("altgate-vllm", Run(program="python3", words=["-c", PLUGINS])) as asked:
        _until(lambda: "altgate-cogvlm" in asked.log(), asked)
    print("vllm: the launcher starts, and CogVLM's plugin is declared")


def _first_run(folder: Path) -> dict[str, Path]:
    """What the first run makes, and its key in a file beside it."""
    (folder / "containers").mkdir(parents=True)
    for name in ("first-run.sh", "altgate.toml"):
        (folder / "containers" / name).write_bytes((ROOT / "containers" / name).read_bytes())
    done = subprocess.run(["sh", folder / "containers/first-run.sh"], capture_output=True, text=True, check=True)
    (folder / "key").write_text(next(word for word in done.stdout.split() if word.startswith("ag-")))
    return {"/etc/altgate": folder / "config", "/run/secrets/redis_url": folder / "secrets" / "redis_url"}


def _caption(container: Running, port: str, key: str) -> str:
    """The caption of a scene, which is the right one."""
    scene = pictures.SCENES[0]
    body = json.dumps({"model": "demo", "messages": [pictures.message(pictures.data_url(pictures.png(scene)))]})
    answer = _python(container, ASK, f"http://127.0.0.1:{port}/v1/chat/completions", body, key)
    assert answer.returncode == 0, answer.stderr
    caption = str(json.loads(answer.stdout)["choices"][0]["message"]["content"])
    assert caption == scenes.caption(scene)
    return caption


def _assert_locked(container: Running) -> None:
    told = _python(container, WHO)
    assert told.stdout.split("\n")[:4] == [UID, "0000000000000000", "1", "Read-only file system"], told


def _python(container: Running, code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return container.ask("python", "-c", code, *words)


def _until_well(container: Running, port: str) -> None:
    """Asks as the image's own health check does."""
    _until(lambda: container.ask("python", "-P", "-m", "engines.health", port).returncode == 0, container)


def _until(well: Callable[[], bool], container: Running) -> None:
    deadline = time.monotonic() + PATIENCE
    while not well():
        assert time.monotonic() < deadline, container.log()
        time.sleep(0.2)
