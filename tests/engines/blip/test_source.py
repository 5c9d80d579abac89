"""Finding a checkpoint: what is wrong with it is one sentence that a client may read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from engines.blip.source import locate
from engines.loading import LoadError
from engines.source import spoken
from tests.engines.blip import hub

CONFIG = {"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}
ROOT = Path(__file__).parents[3]
NAME = "Salesforce/blip-image-captioning-base"


def unheard(phase: str, progress: float) -> None:
    """A report that nobody reads."""


def folder(place: Path, config: dict[str, Any] | str | None, *files: str) -> Path:
    """Make a folder with a configuration and empty files."""
    if config is not None:
        (place / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (place / name).touch()
    return place


def test_a_local_checkpoint_is_used_as_it_is(tmp_path: Path) -> None:
    """Nothing is asked of the hub; pickled weights of old checkpoints count as weights."""
    assert locate(str(folder(tmp_path, CONFIG, "model.safetensors")), "main", unheard) == tmp_path
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert locate(str(tmp_path), "main", unheard) == tmp_path


@pytest.mark.parametrize(
    ("config", "files", "sentence"),
    [
        (None, (), "there is no config.json"),
        ("{", (), "cannot be read"),
        ({"model_type": "blip-2"}, ("model.safetensors",), "is no BLIP captioning checkpoint (blip-2)"),
        (
            {"model_type": "blip", "architectures": ["BlipForQuestionAnswering"]},
            ("model.safetensors",),
            "is no BLIP captioning checkpoint (BlipForQuestionAnswering)",
        ),
        (CONFIG, (), "holds no weights"),
    ],
)
def test_a_wrong_folder_is_named_without_its_path(
    tmp_path: Path, config: Any, files: tuple[str, ...], sentence: str
) -> None:
    """The sentence says what is missing, and nothing of this machine."""
    with pytest.raises(LoadError) as error:
        locate(str(folder(tmp_path, config, *files)), "main", unheard)
    assert sentence in str(error.value)
    assert "the folder set as `source`" in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    """A path is never taken for a name on the hub."""
    with pytest.raises(LoadError, match=r"there is no config\.json"):
        locate(str(tmp_path / "nowhere"), "main", unheard)
    assert spoken("./nowhere") == "the folder set as `source`"
    assert spoken(NAME) == NAME


def gated() -> Exception:
    """The hub's error for a model behind terms."""
    return _answered(errors.GatedRepoError)


def unknown() -> Exception:
    """The hub's error for a model that it does not have."""
    return _answered(errors.RepositoryNotFoundError)


def _answered(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "https://huggingface.co said no")
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            errors.LocalEntryNotFoundError("offline"),
            (
                f"the weights of {NAME} could not be downloaded because the model hub cannot be reached; "
                "download them where there is a network and set `source` to their folder"
            ),
        ),
        (ConnectionError("refused"), f"the weights of {NAME} could not be downloaded because the model hub cannot"),
        (gated(), "accept its terms"),
        (unknown(), f"the model hub knows no model {NAME}"),
        (OSError(28, "No space left on device"), "could not be stored (No space left on device)"),
    ],
)
def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str) -> None:
    """The sentence names the model, the cause and the remedy, and holds nothing of the library's own text."""

    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(LoadError) as told:
        locate(NAME, "main", unheard)
    assert sentence in str(told.value)
    assert "huggingface.co" not in str(told.value)


@pytest.mark.parametrize(
    ("there", "brought"),
    [
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], ["config.json", "model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5"], ["config.json", "pytorch_model.bin"]),
    ],
)
def test_a_download_brings_what_is_loaded_and_says_how_far_it_is(
    tmp_path: Path, there: list[str], brought: list[str]
) -> None:
    """From a hub of our own: the revision asked for, small files and weights, pickled ones only where there are no
    others, with progress up to the end of the download."""
    hub_folder = tmp_path / "hub"
    hub_folder.mkdir()
    folder(hub_folder, CONFIG)
    for file in there:
        (hub_folder / file).write_bytes(bytes(3_000_000))
    code = (
        "from engines.blip.source import locate\n"
        "print(locate('org/tiny', 'v2', lambda phase, progress: print(phase, progress)))\n"
    )
    with hub.serving(hub_folder, "org/tiny", revision="v2") as address:
        environ = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True)

    *reports, place = done.stdout.splitlines()
    assert sorted(path.name for path in Path(place).iterdir()) == brought
    assert reports[-1] == "download 0.8"
    assert {report.split()[0] for report in reports} == {"download"}
