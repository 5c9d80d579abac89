"""Finds a checkpoint or a tokenizer: a local folder, or a name on the Hugging Face hub, downloaded when not here yet.

Reads no weights. What is wrong is told in one sentence that a client may read, hence without paths of this machine.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.loading import LoadError, Report, unreported

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
DOWNLOADED = 0.8  # of all loading, once the files are here


def spoken(source: str) -> str:
    """The source as a client may read it: a hub name, or no more than that it is a folder."""
    return "the folder set as `source`" if _is_folder(source) else source


def locate(source: str, revision: str, report: Report, *, files: Sequence[str]) -> Path:
    """The folder that holds the checkpoint. A download reports "download" and its fraction; `revision` is the hub's.

    `files` are the patterns of what is wanted beside the weights.

    Raises:
        LoadError: it cannot be had, or holds no checkpoint.
    """
    folder = Path(source) if _is_folder(source) else _download(source, revision, report, files)
    _check(folder, spoken(source))
    return folder


def locate_tokenizer(source: str, *, files: Sequence[str]) -> Path:
    """The folder that holds a tokenizer, downloaded without weights; `files` are the patterns of what is wanted.

    Raises:
        LoadError: it cannot be had, or holds no tokenizer.
    """
    folder = Path(source) if _is_folder(source) else _download_tokenizer(source, files)
    if not any(found for pattern in TOKENIZERS for found in folder.glob(pattern)):
        name = "the folder set as `tokenizer`" if _is_folder(source) else source
        raise LoadError(f"{name} holds no tokenizer: there is no tokenizer.json in it; correct `tokenizer`")
    return folder


def configuration(folder: Path, name: str) -> dict[str, Any]:
    """The checkpoint's config.json; `name` is the checkpoint's, for clients.

    Raises:
        LoadError: there is none, or it cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise LoadError(
            f"{name} holds no checkpoint: there is no config.json in it; name the folder that has one"
        ) from None
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise LoadError(f"the config.json of {name} cannot be read; download the checkpoint again")
    return config


def _is_folder(source: str) -> bool:
    """A hub name has at most one slash and never looks like a path; what exists here is a folder in any case."""
    return Path(source).is_dir() or source.startswith(("/", ".", "~", "\\")) or source.count("/") > 1


def _download(name: str, revision: str, report: Report, small: Sequence[str]) -> Path:
    try:
        folder = _snapshot(name, revision, report, [*small, WEIGHTS[0]])
        if not list(folder.glob(WEIGHTS[0])):  # an old checkpoint: pickled weights, which torch reads as data only
            folder = _snapshot(name, revision, report, [*small, WEIGHTS[1]])
    except Exception as error:
        raise LoadError(_download_sentence(name, f"the weights of {name}", "source", error)) from error
    return folder


def _download_tokenizer(name: str, files: Sequence[str]) -> Path:
    try:
        return _snapshot(name, "main", unreported, files)
    except Exception as error:
        raise LoadError(_download_sentence(name, f"the files of the tokenizer {name}", "tokenizer", error)) from error


def _snapshot(name: str, revision: str, report: Report, patterns: Sequence[str]) -> Path:
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415 -- seconds to import, and no folder needs it

    wanted = [*patterns]
    try:
        # Asked first, since the bar learns of each file's size only when its turn comes.
        listed = snapshot_download(name, revision=revision, allow_patterns=wanted, dry_run=True)
    except errors.DryRunError:  # the hub is out of reach; what was downloaded before is used
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    bar = _reporting(report, sum(file.file_size or 0 for file in listed if file.will_download))
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, tqdm_class=bar))


def _reporting(report: Report, total: int) -> type[Any]:
    """A progress bar that draws nothing and reports how much of `total` bytes is here."""
    from tqdm import tqdm  # noqa: PLC0415 -- as above

    class Bar(tqdm):  # type: ignore[misc]  # tqdm brings no types
        def update(self, n: float | None = 1) -> None:
            super().update(n)
            if self.unit == "B":
                report("download", DOWNLOADED * min(1.0, self.n / max(1, total)))

        def display(self, *_: Any, **__: Any) -> None:
            """A bar in a log is noise."""

    return Bar


def _download_sentence(name: str, files: str, setting: str, error: Exception) -> str:
    """Why `files`, those of a name on the hub that stands under a setting, could not be downloaded."""
    from huggingface_hub import errors  # noqa: PLC0415 -- as above

    match error:
        case errors.GatedRepoError():
            return f"{name} may only be downloaded by those whom its owner admits; accept its terms and set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"the model hub has {name}, but not in the revision asked for; correct `revision`"
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return (
                f"the model hub knows no model {name}; correct `{setting}`, or set HF_TOKEN when the model is private"
            )
        case OSError() if error.errno is not None:
            return f"{files} could not be stored ({error.strerror}); make room in the model cache"
    return (
        f"{files} could not be downloaded because the model hub cannot be reached; "
        f"download them where there is a network and set `{setting}` to their folder"
    )


def _check(folder: Path, name: str) -> None:
    """Refuses what is no checkpoint before an engine takes its time over it."""
    configuration(folder, name)
    if not any(found for pattern in WEIGHTS for found in folder.glob(pattern)):
        raise LoadError(f"{name} holds no weights: there is no model.safetensors in it; download it again")
