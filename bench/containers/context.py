"""What a build is given: the sources, and how pip is set up on this machine."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FILES = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("requirements", "prompts", "engines", "gateway")
KEPT = ("index-url", "extra-index-url", "find-links", "cert")


class Pip(NamedTuple):
    """A pip.conf (None: pip's defaults hold), and the folders that it names."""

    file: Path | None
    folders: tuple[str, ...]


def copied(folder: Path) -> Path:
    """The sources in a folder of their own, in which they may be changed."""
    folder.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def change(sources: Path) -> None:
    """Changes a line of code."""
    with (sources / "gateway" / "__init__.py").open("a") as file:
        file.write("# changed\n")


def pip_settings(folder: Path) -> Pip:
    """From where pip takes packages here, its files and its environment taken together."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _written(_kept(listed), folder / "pip.conf")


def _kept(listed: str) -> dict[str, str]:
    """What `pip config list` says of where packages are; what stands later holds."""
    kept = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in KEPT:
            kept[key] = value.strip("'\"")
    return kept


def _written(settings: dict[str, str], file: Path) -> Pip:
    if not settings.keys() - {"cert"}:
        return Pip(None, ())
    parser = configparser.RawConfigParser()
    parser["global"] = settings
    with file.open("w") as text:
        parser.write(text)
    words = [word for key in settings.keys() - {"cert"} for word in settings[key].split()]
    # The pages of an index that is a folder link to files beside it.
    places = {Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word) for word in words}
    return Pip(file, tuple(sorted(str(place) for place in places if place.is_dir())))
