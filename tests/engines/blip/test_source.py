"""Finding a checkpoint: what is wrong with it is one sentence that a client may read."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines.blip.source import locate, spoken
from engines.serve import LoadError

hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")

CONFIG = {"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}
NAME = "Salesforce/blip-image-captioning-base"


def folder(place: Path, config: dict[str, Any] | str | None, *files: str) -> Path:
    """Make a folder with a configuration and empty files."""
    if config is not None:
        (place / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        (place / name).touch()
    return place


def test_a_local_checkpoint_is_used_as_it_is(tmp_path: Path) -> None:
    """Nothing is asked of the hub; pickled weights of old checkpoints count as weights."""
    assert locate(str(folder(tmp_path, CONFIG, "model.safetensors"))) == tmp_path
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert locate(str(tmp_path)) == tmp_path


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
        locate(str(folder(tmp_path, config, *files)))
    assert sentence in str(error.value)
    assert "the folder set as `source`" in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    """A path is never taken for a name on the hub."""
    with pytest.raises(LoadError, match=r"there is no config\.json"):
        locate(str(tmp_path / "nowhere"))
    assert spoken("./nowhere") == "the folder set as `source`"
    assert spoken(NAME) == NAME


def test_a_name_is_downloaded_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is loaded is downloaded; pickled weights only where there are no others."""
    asked: list[list[str]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        assert name == NAME
        asked.append(allow_patterns)
        folder(tmp_path, CONFIG, *(["pytorch_model.bin"] if len(asked) > 1 else []))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert locate(NAME) == tmp_path
    assert [patterns[-1] for patterns in asked] == ["*.safetensors", "pytorch_model*.bin"]


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

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(LoadError) as told:
        locate(NAME)
    assert sentence in str(told.value)
    assert "huggingface.co" not in str(told.value)
