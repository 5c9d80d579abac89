"""What can be served on this machine, read off its disk and its installed packages; nothing is loaded or imported."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from gateway.config import EngineKind, Model

PACKAGES: Mapping[EngineKind, tuple[str, ...]] = {"blip": ("torch", "transformers")}
INSTALL: Mapping[EngineKind, str] = {"blip": "pip install 'altgate[blip]'"}


class Availability(Struct, frozen=True):
    """Whether a model can be served here; `remedy` says what to do where it cannot."""

    ok: bool
    state: str
    remedy: str | None = None


def availability(model: Model, environ: Mapping[str, str] = os.environ) -> Availability:
    """What stands between a model and its first answer."""
    missing = [package for package in PACKAGES[model.engine] if find_spec(package) is None]
    if missing:
        return Availability(False, f"needs {' and '.join(missing)}", INSTALL[model.engine])
    if is_folder(model.source):
        if (Path(model.source) / "config.json").is_file():
            return Availability(True, "on disk")
        return Availability(False, "no checkpoint in its folder", f"put one into {model.source}, or correct 'source'")
    if any(_snapshots(model.source, environ)):
        return Availability(True, "downloaded")
    return Availability(True, "downloads at first use")


def is_folder(source: str) -> bool:
    """Whether a source is a folder and not a name on the hub; the BLIP engine tells them apart the same way."""
    return Path(source).is_dir() or source.startswith(("/", ".", "~", "\\")) or source.count("/") > 1


def device(model: Model) -> str:
    """Where the model would run, as far as can be told without loading its engine."""
    asked = str(model.args.get("device", "auto"))
    if asked != "auto":
        return asked
    return "cuda" if Path("/dev/nvidia0").exists() else "cpu"


def _snapshots(source: str, environ: Mapping[str, str]) -> list[Path]:
    """What the hub's own cache holds of a model. The layout is huggingface_hub's."""
    home = Path(environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(environ.get("HF_HUB_CACHE", home / "hub"))
    return sorted(cache.glob(f"models--{source.replace('/', '--')}/snapshots/*/config.json"))
