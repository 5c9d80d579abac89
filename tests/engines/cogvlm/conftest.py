"""The tiny checkpoints, as published and as prepared, each made once for all tests of the plugin."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engines.cogvlm.prepare import prepare
from tests.engines.cogvlm import tiny
from tests.engines.cogvlm.asking import Inside
from tests.engines.cogvlm.tiny import Published


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Published]:
    """The checkpoints as their authors give them."""
    torch.set_num_threads(1)  # the tensors are so small that a second thread only costs time
    return {make.__name__: make(tmp_path_factory.mktemp(make.__name__)) for make in tiny.ALL}


@pytest.fixture(scope="session")
def prepared(published: dict[str, Published], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same, ready for vLLM."""
    folders = {name: tmp_path_factory.mktemp("prepared") / name for name in published}
    for name, folder in folders.items():
        prepare(published[name].checkpoint, published[name].tokenizer, folder)
    return folders


@pytest.fixture(scope="session")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """The process in which vLLM answers questions about the plugin."""
    process = Inside(tmp_path_factory.mktemp("inside") / "log")
    yield process
    process.close()
