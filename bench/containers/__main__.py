"""Builds the images and tries them: `python -m bench.containers`, as `make containers` does.

With docker, podman or buildah, whichever works (CONTAINER_TOOL names one). Where no image registry can be reached, a
Debian tree stands in for the base images. Each image runs as its own user, on a read-only root, without capabilities
and without a network: the gateway answers /health, BLIP's engine captions a scene, and then the one asks the other, as
docker-compose.yml has them. Prints sizes, and how long a build takes after a change of code.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from bench.containers import context, smoke, stand_in
from bench.containers.tool import Tool, present

TARGETS = ("gateway", "blip", "vllm")
PYTHON_IMAGE = "python:3.11-slim-bookworm"
VLLM_IMAGE = "vllm/vllm-openai:v0.32.0"


def main() -> int:
    """The whole story; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="altgate-containers-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        tool, base = _usable(folder)
        sources = context.copied(folder / "sources")
        pip = context.pip_settings(folder)
        for target in TARGETS:
            seconds = _built(tool, target, sources, base, pip)
            print(f"{target}: built in {seconds:.0f} s, {_megabytes(tool, f'altgate-{target}')}")
        context.change(sources)
        for target in TARGETS:
            seconds = _built(tool, target, sources, base, pip)
            print(f"{target}: built after a change of code in {seconds:.1f} s")
        smoke.gateway_alone(tool, folder)
        smoke.blip_alone(tool)
        smoke.blip_downloaded(tool, folder)
        smoke.together(tool, folder)
        smoke.vllm_plugin(tool)
    return 0


def _usable(folder: Path) -> tuple[Tool, dict[str, str]]:
    """The first tool that runs something, and its base images.

    Raises:
        SystemExit: there is none.
    """
    for tool in present(os.environ):
        print(f"with {tool.name}")
        base = _bases(tool, folder)
        if tool.runs(base["PYTHON_IMAGE"]):
            return tool, base
        print(f"{tool.name} is here, but runs nothing")
    raise SystemExit("Neither docker nor podman nor buildah works here. As root on Debian: apt-get install buildah")


def _bases(tool: Tool, folder: Path) -> dict[str, str]:
    """The base images by the argument that names them: as published where they can be had, or what stands in."""
    if tool.pull(PYTHON_IMAGE):
        print(f"on {PYTHON_IMAGE}: {_megabytes(tool, PYTHON_IMAGE)}")
        return {"PYTHON_IMAGE": PYTHON_IMAGE, "VLLM_IMAGE": VLLM_IMAGE if tool.pull(VLLM_IMAGE) else PYTHON_IMAGE}
    if not tool.has(stand_in.NAME):
        tree = folder / "tree"
        tool.take(tree if tree.exists() else stand_in.tree(tree), stand_in.NAME)
    print(f"no registry can be reached; a Debian tree stands in for {PYTHON_IMAGE}: {_megabytes(tool, stand_in.NAME)}")
    return {"PYTHON_IMAGE": stand_in.NAME, "VLLM_IMAGE": stand_in.NAME}


def _built(tool: Tool, target: str, sources: Path, arguments: dict[str, str], pip: context.Pip) -> float:
    """Builds an image; the seconds that took."""
    began = time.monotonic()
    tool.build(target, f"altgate-{target}", sources, arguments, pip)
    return time.monotonic() - began


def _megabytes(tool: Tool, image: str) -> str:
    return f"{tool.size(image) / 10**6:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
