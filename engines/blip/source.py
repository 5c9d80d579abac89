"""Finds a BLIP captioning checkpoint, and refuses others before gigabytes of them are read."""

from pathlib import Path

from engines import source as checkpoints
from engines.loading import LoadError, Report

FILES = ("*.json", "vocab.txt")
ARCHITECTURE = "BlipForConditionalGeneration"


def locate(source: str, revision: str, report: Report) -> Path:
    """The folder that holds the checkpoint; see `engines.source.locate`.

    Raises:
        LoadError: it cannot be had, or it is not a BLIP captioning checkpoint.
    """
    folder = checkpoints.locate(source, revision, report, files=FILES)
    name = checkpoints.spoken(source)
    config = checkpoints.configuration(folder, name)
    if config.get("model_type") != "blip" or ARCHITECTURE not in (config.get("architectures") or [ARCHITECTURE]):
        kind = (config.get("architectures") or [config.get("model_type", "unknown")])[0]
        raise LoadError(f"{name} is no BLIP captioning checkpoint ({kind}); the blip engine loads {ARCHITECTURE} only")
    return folder
