"""Weights that are downloaded beforehand, and engines that then start without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines import source as checkpoints
from engines import weights
from tests.engines.blip import hub

ROOT = Path(__file__).parents[2]
BLIP = {"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}
LOCATE = "from engines.blip.source import locate; print(locate({name!r}, 'main', lambda *_: None))"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A checkpoint as it lies on a hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BLIP))
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (folder / "tf_model.h5").write_bytes(bytes(1000))
    return folder


def run(code: list[str], home: Path, address: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Python with a hub and a cache of its own."""
    environ = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), **more}
    return subprocess.run([sys.executable, *code], env=environ, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_model_is_downloaded_once_and_then_needs_no_hub(published: Path, tmp_path: Path) -> None:
    """By its name in the catalogue: what its engine loads and nothing else. The hub may be away, or switched off."""
    name, home = "Salesforce/blip-image-captioning-base", tmp_path / "home"
    with hub.serving(published, name) as address:
        done = run(["-m", "engines.weights", "blip-base"], home, address)
    switched_off = run(["-c", LOCATE.format(name=name)], home, address, HF_HUB_OFFLINE="1")
    away = run(["-c", LOCATE.format(name=name)], home, address)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "blip-base: is here"
    folder = Path(switched_off.stdout.strip())
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert away.stdout.strip() == str(folder)


def test_without_a_download_the_sentence_is_that_of_a_hub_out_of_reach(published: Path, tmp_path: Path) -> None:
    """A cache that has nothing, or another revision, does not pass for one that has it."""
    code = ["-c", LOCATE.format(name="org/tiny")]
    with hub.serving(published, "org/tiny") as address:
        pass

    done = run(code, tmp_path / "home", address, HF_HUB_OFFLINE="1")

    assert "because the model hub cannot be reached" in done.stderr.splitlines()[-1]


def test_a_model_that_the_hub_does_not_have_is_told_in_one_line(published: Path, tmp_path: Path) -> None:
    """The last line is for people; nothing is said to be here."""
    with hub.serving(published, "org/another") as address:
        done = run(["-m", "engines.weights", "blip-base"], tmp_path / "home", address)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "altgate: the model hub knows no model Salesforce/blip-image-captioning-base"
    )
    assert "is here" not in done.stdout


@pytest.mark.parametrize("names", [["no-such"], ["demo"], []])
def test_only_models_that_are_downloaded_are_names(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled one is not among them; the message lists those that are."""
    with pytest.raises(SystemExit):
        weights.main(names)

    told = capsys.readouterr().err
    assert "engines.weights" in told
    assert not names or "'gemma-3-4b'" in told


def test_a_separate_tokenizer_is_downloaded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """CogVLM has its own somewhere else."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(checkpoints, "locate", lambda name, *_, files: asked.append((name, files)))
    monkeypatch.setattr(checkpoints, "locate_tokenizer", lambda name, *, files: asked.append((name, files)))

    assert weights.main(["cogvlm-chat", "blip-base"]) == 0

    assert [name for name, _ in asked] == [
        "zai-org/cogvlm-chat-hf",
        "lmsys/vicuna-7b-v1.5",
        "Salesforce/blip-image-captioning-base",
    ]
    assert "*.model" in asked[1][1]
    assert "vocab.txt" in asked[2][1]
