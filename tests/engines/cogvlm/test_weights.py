"""Every published tensor has its place in the model, at the real sizes of both generations."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines.cogvlm.layout import Architecture, read
from tests.engines.cogvlm.asking import Inside
from tests.engines.cogvlm.test_layout import COGVLM, COGVLM2

SHARDS = 2  # of the one packed parameter, a gate above its like
EIGHT_BITS = "fp8_per_channel"


def configured(folder: Path, published: dict[str, Any]) -> Architecture:
    """Write the configuration that a checkpoint of this kind is prepared with."""
    architecture = read(published, "the checkpoint")
    (folder / "config.json").write_text(json.dumps(architecture.configuration()))
    return architecture


@pytest.mark.parametrize("published", [COGVLM, COGVLM2], ids=["cogvlm", "cogvlm2"])
def test_every_published_tensor_fits_its_parameter(inside: Inside, tmp_path: Path, published: dict[str, Any]) -> None:
    """Names and shapes are the model's, packed ones by their parts, and no parameter is left without a tensor."""
    architecture = configured(tmp_path, published)
    tensors = architecture.tensors()

    homes = inside.load(tmp_path, [*tensors, *architecture.optional_tensors()])

    assert set(homes.tensors) == set(tensors)
    for name, shape in tensors.items():
        home = homes.tensors[name]
        packed = 1 if home.shard is None else SHARDS
        assert (shape[0] * packed, *shape[1:]) == home.shape, name
    assert {home.parameter for home in homes.tensors.values()} == set(homes.parameters)
    assert len({(home.parameter, home.shard) for home in homes.tensors.values()}) == len(tensors)


@pytest.mark.parametrize("published", [COGVLM, COGVLM2], ids=["cogvlm", "cogvlm2"])
def test_every_linear_layer_can_be_quantised(inside: Inside, tmp_path: Path, published: dict[str, Any]) -> None:
    """Both experts, the tower and the adapter; each layer is called by its place, so that patterns find it."""
    architecture = configured(tmp_path, published)

    layers = inside.quantise(tmp_path, quantization=EIGHT_BITS)

    assert sorted(layers.quantised) == sorted(layers.linear)
    assert len(layers.linear) == 8 * architecture.num_hidden_layers + 4 * architecture.vision.num_hidden_layers + 4


def test_the_tower_can_be_spared(inside: Inside, tmp_path: Path) -> None:
    """By a pattern, and then nothing else is."""
    configured(tmp_path, COGVLM2)

    layers = inside.quantise(tmp_path, quantization=EIGHT_BITS, quantization_config={"ignore": ["vision.*"]})

    assert sorted(layers.quantised) == sorted(name for name in layers.linear if not name.startswith("vision."))
