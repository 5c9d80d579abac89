"""The tiny checkpoint, saved once."""

from pathlib import Path

import pytest
import torch

from engines.blip.model import BlipModel, use_threads
from tests.engines.blip import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BLIP checkpoint."""
    use_threads(1)  # several threads only wait for one another over so few numbers
    return tiny.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> BlipModel:
    """The tiny checkpoint in float32, on the CPU."""
    return BlipModel(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
