"""Importing what is built for CUDA where torch is not: mended where it would fail, untouched where it works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpu_torch import install

# As much of torch and torchvision as the import touches; torchvision's operators are there if `loaded` says so.
TORCH = """
from types import SimpleNamespace
ops = SimpleNamespace(torchvision=SimpleNamespace())
declared = []
def define(name, schema):
    declared.append(name)
    setattr(ops.torchvision, name.removeprefix("torchvision::"), schema)
library = SimpleNamespace(define=define)
"""
TORCHVISION = """
import torch
if {loaded}:
    torch.ops.torchvision.nms = torch.ops.torchvision.qnms = "loaded"
from torchvision import _meta_registrations
"""
META_REGISTRATIONS = "import torch; torch.ops.torchvision.nms, torch.ops.torchvision.qnms"


def declared(folder: Path, *, loaded: bool) -> str:
    """Import that torchvision in a Python that starts with the hook; the operators that the hook declared."""
    (folder / "torchvision").mkdir()
    (folder / "torch.py").write_text(TORCH)
    (folder / "torchvision/__init__.py").write_text(TORCHVISION.format(loaded=loaded))
    (folder / "torchvision/_meta_registrations.py").write_text(META_REGISTRATIONS)
    hook = Path(install.__file__).parent
    code = "import torchvision_operators, torchvision, torch; print(*torch.declared)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(hook)])}
    return run(code, environment)


def run(code: str, environment: dict[str, str]) -> str:
    """Run some Python without site-packages, which have the real ones; what it printed."""
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def test_a_torchvision_without_operators_gets_them_declared(tmp_path: Path) -> None:
    """Its import succeeds."""
    assert declared(tmp_path, loaded=False) == "torchvision::nms torchvision::qnms"


def test_a_torchvision_with_operators_is_left_alone(tmp_path: Path) -> None:
    """Nothing is declared over what it has loaded."""
    assert declared(tmp_path, loaded=True) == ""


def test_packages_that_cannot_be_imported_look_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To `import` and to those who ask whether there is one; a package that can be imported is left alone."""
    (tmp_path / "broken.py").write_text("raise OSError('no CUDA here')")
    (tmp_path / "sound.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(install, "DISPENSABLE", ("broken", "sound"))

    install.install(tmp_path)

    code = f"import site; site.addsitedir({str(tmp_path)!r}); from importlib.util import find_spec as find; "
    code += "print(find('broken') is None, find('sound') is None)"
    assert run(code, dict(os.environ)) == "True False"


def test_installing_again_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it runs, Python's start is the same."""
    monkeypatch.setattr(install, "DISPENSABLE", ("no_such_package",))

    install.install(tmp_path)
    once = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    install.install(tmp_path)

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == once
