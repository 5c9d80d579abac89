"""The wheel that images and users install: all that runs, the data with it, and nothing of the tests."""

import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.containers.deployment import ROOT

CODE = {"gateway", "engines", "prompts"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as the Dockerfile builds it, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def names(wheel: Path) -> set[str]:
    """The files in it."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Code, prompts, the catalogue, templates and the bundled model, as git has them; and no file more."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *CODE]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    there = {name for name in tracked if name and (ROOT / name).exists()}
    held = {name for name in names(wheel) if ".dist-info/" not in name}

    assert held == there
    assert {"engines/catalog.toml", "engines/demo/checkpoint/model.safetensors", "prompts/alt_text.toml"} <= held


def test_it_declares_the_command_and_the_plugin(wheel: Path) -> None:
    """By which a shell and vLLM find them."""
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        declared = ConfigParser()
        declared.read_string(archive.read(entry).decode())

    assert dict(declared["console_scripts"]) == {"altgate": "gateway.cli:main"}
    assert dict(declared["vllm.general_plugins"]) == {"altgate-cogvlm": "engines.cogvlm.plugin:register"}


def test_it_is_for_every_platform_and_needs_no_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked anywhere, as vLLM's image has it, it finds its own data."""
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "from pathlib import Path; import gateway, engines.weights as weights; from gateway import catalogue, prompts\n"
        "models = catalogue.models({}, 'x'); print(Path(gateway.__file__).parents[1])\n"
        "print(len(models), len(prompts.load()))\n"
        "print(next(model.source for model in models if model.name == 'demo'))\n"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(tmp_path), "PATH": ""}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    place, counts, source = done.stdout.splitlines()
    assert place == str(tmp_path)
    assert min(map(int, counts.split())) > 0
    assert source == str(tmp_path / "engines/demo/checkpoint")
