"""Downloads what models need, so that their engines can do without a network: `python -m engines.weights NAME...`.

A name is the catalogue's. What is here already is not downloaded again.
"""

import argparse
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines import source as checkpoints
from engines.blip.source import FILES as BLIP_FILES
from engines.loading import LoadError
from engines.vllm.checkpoints import FILES as VLLM_FILES

CATALOGUE = Path(__file__).with_name("catalog.toml")
STEP = 0.1  # of all of a download, between two lines on it


def main(arguments: Sequence[str]) -> int:
    """Downloads the models one after the other; returns the exit status."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # our lines tell how far it is
    catalogue = tomllib.loads(CATALOGUE.read_text("utf-8"))
    for name in _parse(arguments, _downloaded(catalogue)):
        try:
            _fetch(name, catalogue[name])
        except LoadError as error:
            sys.stderr.write(f"altgate: {error}\n")
            return 1
    return 0


def _parse(arguments: Sequence[str], known: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(prog="python -m engines.weights", description="Downloads what models need.")
    parser.add_argument("models", nargs="+", choices=known, metavar="NAME", help=f"one of {', '.join(known)}")
    models: list[str] = parser.parse_args(arguments).models
    return models


def _downloaded(catalogue: Mapping[str, Any]) -> list[str]:
    """The models that do not come with us."""
    return [name for name, entry in catalogue.items() if not entry["source"].startswith("./")]


def _fetch(name: str, entry: Mapping[str, Any]) -> None:
    files = BLIP_FILES if entry["engine"] == "blip" else VLLM_FILES
    checkpoints.locate(entry["source"], entry.get("revision", "main"), _Told(name), files=files)
    if "tokenizer" in entry:
        checkpoints.locate_tokenizer(entry["tokenizer"], files=VLLM_FILES)
    _say(f"{name}: is here")


class _Told:
    """A report that says how far a model's download is, in few lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0

    def __call__(self, phase: str, progress: float) -> None:
        done = progress / checkpoints.DOWNLOADED
        if done >= self._next:
            _say(f"{self._name}: {phase}, {done:.0%}")
            self._next = done + STEP


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
