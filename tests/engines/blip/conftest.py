"""The tiny checkpoint, saved once; whatever needs PyTorch is skipped where it is not installed."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from engines.blip.model import BlipModel


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BLIP checkpoint."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.engines.blip import tiny  # noqa: PLC0415 -- it needs torch

    torch.set_num_threads(1)  # several threads only wait for one another over so few numbers
    return tiny.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> "BlipModel":
    """The tiny checkpoint in float32, on the CPU."""
    import torch  # noqa: PLC0415 -- not everyone has it

    from engines.blip.model import BlipModel  # noqa: PLC0415

    return BlipModel(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
