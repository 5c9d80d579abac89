"""`altgate prepare`, as a user types it."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gateway.config import load
from gateway.preparation import prepared
from gateway.values import ConfigError
from tests.engines.cogvlm import tiny


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tiny.Published:
    """CogVLM as published, its tokenizer in a folder of its own."""
    return tiny.cogvlm(tmp_path_factory.mktemp("published"))


def altgate(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """What the command prints, and how it ends."""
    command = [sys.executable, "-P", "-m", "gateway.cli", "prepare", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ})


@pytest.mark.parametrize("name", ["cogvlm-chat", "cogvlm", "THUDM/cogvlm-chat-hf"])
def test_a_checkpoint_is_prepared_and_its_section_printed(published: tiny.Published, tmp_path: Path, name: str) -> None:
    """By any name of the model; what is printed is a configuration."""
    words = [f"--source={published.checkpoint}", f"--tokenizer={published.tokenizer}", '--out=a "folder"']

    done = altgate(name, *words, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('a "folder" is ready. In altgate.toml:\n\n[models.cogvlm-chat]\n')
    section = done.stdout.partition("\n\n")[2]
    out = tmp_path / 'a "folder"'
    assert tomllib.loads(section) == {"models": {"cogvlm-chat": {"source": str(out)}}}
    assert (out / "chat_template.jinja").is_file()
    (tmp_path / "altgate.toml").write_text(section)
    (model,) = (each for each in load(tmp_path / "altgate.toml", {}, {}).models if each.name == "cogvlm-chat")
    assert (model.source, model.forms) == (str(out), ("chat", "vqa"))


def test_no_code_of_the_checkpoint_is_run(published: tiny.Published, tmp_path: Path) -> None:
    """Not even where the command is given in its folder, in which a module has the name of one of Python's own."""
    source = shutil.copytree(published.checkpoint, tmp_path / "source")
    (source / "argparse.py").write_text("raise SystemExit('run')")

    done = altgate("cogvlm", "--source=.", f"--tokenizer={published.tokenizer}", "--out=../out", cwd=source)

    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_prepared_is_one_sentence(published: tiny.Published, tmp_path: Path) -> None:
    """The engine's own, with the command's exit status."""
    source = f"--source={published.checkpoint}"
    tokenizer = f"--tokenizer={published.tokenizer}"
    broken = shutil.copytree(published.checkpoint, tmp_path / "broken")
    (broken / "model-00001-of-00002.safetensors").unlink()

    lacking = altgate("cogvlm-chat", source, "--out=out", cwd=tmp_path)
    other = altgate("cogvlm2", source, tokenizer, "--out=out", cwd=tmp_path)
    missing = altgate("cogvlm", f"--source={broken}", tokenizer, "--out=out", cwd=tmp_path)

    assert {done.returncode for done in (lacking, other, missing)} == {1}
    assert lacking.stderr.startswith(
        "Error: the source holds no tokenizer, which is published as lmsys/vicuna-7b-v1.5;"
    )
    assert other.stderr.startswith("Error: the source is of the other generation, that of cogvlm-chat;")
    assert missing.stderr.startswith("Error: the source lacks 1 of its 2 files of weights: model-00001-of-00002.")
    assert not (tmp_path / "out").exists()


def test_a_preparation_that_is_killed_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the signal's number and name, for it could say nothing itself."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)

    with pytest.raises(ConfigError, match=r"was ended by signal 9 \(Killed\)\. Run it again\."):
        prepared("cogvlm", tmp_path, None, tmp_path / "out")


def test_other_models_need_no_preparation(published: tiny.Published, tmp_path: Path) -> None:
    """And what is no model is told with the nearest that there is."""
    words = [f"--source={published.checkpoint}", "--out=out"]

    needless = altgate("gemma-3-4b", *words, cwd=tmp_path)
    unknown = altgate("cogvlm-chatt", *words, cwd=tmp_path)

    assert needless.stderr.startswith(
        "Error: the model 'gemma-3-4b' needs no preparation; only cogvlm-chat and cogvlm2"
    )
    assert "Did you mean 'cogvlm-chat'? `altgate models` lists" in unknown.stderr
    assert (needless.returncode, unknown.returncode) == (1, 1)
