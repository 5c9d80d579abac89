"""What the published checkpoints hold, told from their configurations alone."""

from collections.abc import Mapping
from math import prod
from typing import Any

import pytest

from engines.cogvlm.layout import Architecture, Generation, is_prepared, is_published, read
from engines.loading import LoadError

TOWER = {
    "dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 1792,
    "in_channels": 3,
    "intermediate_size": 15360,
    "layer_norm_eps": 1e-06,
    "num_heads": 16,
    "num_hidden_layers": 63,
    "patch_size": 14,
}
SHARED = {
    "architectures": ["CogVLMForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_cogvlm.CogVLMConfig"},
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "torch_dtype": "bfloat16",
}
COGVLM = {
    **SHARED,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-05,
    "vision_config": {**TOWER, "image_size": 490, "num_positions": 1226},
    "vocab_size": 32000,
}
COGVLM2 = {
    **SHARED,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
    "intermediate_size": 14336,
    "num_multi_query_heads": 8,
    "pad_token_id": 128002,
    "vision_config": {**TOWER, "image_size": 1344, "num_positions": 9217},
    "vocab_size": 128256,
}
# By the published index of cogvlm2-llama3-chat-19B, 39 006 214 656 bytes: these, and the rotary frequencies' 4096.
COGVLM2_BYTES = 39_006_210_560
COGVLM2_TENSORS = 1221


def size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The bytes of tensors in bfloat16."""
    return sum(2 * prod(shape) for shape in shapes.values())


def test_the_second_generation_has_the_published_size() -> None:
    """To the byte, and to the tensor."""
    architecture = read(COGVLM2, "it")

    assert size(architecture.tensors()) == COGVLM2_BYTES
    assert size(architecture.optional_tensors()) == 4096
    assert len(architecture.tensors()) + len(architecture.optional_tensors()) == COGVLM2_TENSORS


def test_the_first_generation_has_the_size_that_its_authors_name() -> None:
    """Seventeen billion parameters; fewer tensors for each thing that it has not."""
    architecture = read(COGVLM, "it")

    assert round(size(architecture.tensors()) / 2 / 10**9, 2) == 17.64
    assert len(architecture.tensors()) + len(architecture.optional_tensors()) == COGVLM2_TENSORS - 32 - 2


@pytest.mark.parametrize(
    ("config", "name", "shape"),
    [
        (COGVLM, "model.layers.31.self_attn.vision_expert_query_key_value.weight", (3 * 4096, 4096)),
        (COGVLM2, "model.layers.0.self_attn.language_expert_query_key_value.weight", (4096 + 2 * 1024, 4096)),
        (COGVLM2, "model.layers.0.self_attn.vision_expert_query_key_value.bias", (6144,)),
        (COGVLM2, "model.layers.9.mlp.vision_mlp.down_proj.weight", (4096, 14336)),
        (COGVLM, "model.vision.patch_embedding.proj.weight", (1792, 3, 14, 14)),
        (COGVLM2, "model.vision.patch_embedding.position_embedding.weight", (9217, 1792)),
        (COGVLM, "model.vision.transformer.layers.62.mlp.fc1.bias", (15360,)),
        (COGVLM2, "model.vision.conv.weight", (1792, 1792, 2, 2)),
        (COGVLM, "model.vision.linear_proj.linear_proj.weight", (4096, 1792)),
        (COGVLM, "model.vision.linear_proj.dense_4h_to_h.weight", (4096, 11008)),
        (COGVLM, "model.vision.boi", (1, 1, 4096)),
    ],
)
def test_tensors_have_their_published_shapes(config: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> None:
    """One of each kind."""
    assert read(config, "it").tensors()[name] == shape


def test_what_only_one_generation_has_is_not_the_others() -> None:
    """The bias of the vision expert and the convolution are the second's."""
    first, second = (set(read(config, "it").tensors()) for config in (COGVLM, COGVLM2))

    assert not first - second
    assert {name.split(".")[-2] for name in second - first} == {"vision_expert_query_key_value", "conv"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            COGVLM,
            {
                "num_key_value_heads": 32,
                "rope_theta": 10_000.0,
                "vision_qkv_bias": False,
                "image_tokens": 1227,
                "max_position_embeddings": 2048 + 1227 - 3,
                "rms_norm_eps": 1e-05,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 0,
            },
        ),
        (
            COGVLM2,
            {
                "num_key_value_heads": 8,
                "rope_theta": 500_000.0,
                "vision_qkv_bias": True,
                "image_tokens": 2306,
                "max_position_embeddings": 8192 + 2306 - 3,
                "rms_norm_eps": 1e-05,
                "bos_token_id": 128000,
                "eos_token_id": [128001, 128009],
                "pad_token_id": 128002,
            },
        ),
    ],
)
def test_the_configuration_says_all_that_differs(config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """What stands only in the authors' code, too; and nothing of that code."""
    made = read(config, "it").configuration()

    assert made.items() >= expected.items()
    assert made["vision_config"]["downsample"] is expected["vision_qkv_bias"]
    assert made["rope_tables"] == "float32"
    assert "auto_map" not in made
    assert is_prepared(made)
    assert not is_published(made)


@pytest.mark.parametrize(("config", "epsilon"), [(COGVLM, 1e-6), (COGVLM2, 1e-5)], ids=["CogVLM", "CogVLM2"])
def test_an_epsilon_left_out_is_that_of_the_authors_class(config: Mapping[str, Any], epsilon: float) -> None:
    """The generations have different ones."""
    left = {name: value for name, value in config.items() if name != "rms_norm_eps"}

    assert read(left, "it").rms_norm_eps == epsilon


def test_published_and_prepared_are_told_apart() -> None:
    """By a mark of ours: a type of model is put in by whatever saves a checkpoint again. Kin is known as such, too."""
    saved = COGVLM | {"model_type": "cogvlm"}
    assert is_published(saved)
    assert not is_prepared(saved)
    assert is_published(COGVLM)
    assert is_published(COGVLM | {"architectures": ["CogAgentForCausalLM"]})
    assert not is_prepared(COGVLM)
    assert not is_published({"architectures": ["LlamaForCausalLM"]})
    assert not is_published({"architectures": "CogVLMForCausalLM"})


def test_generations_are_told_apart() -> None:
    """By the heads that share keys and values."""
    assert [read(config, "it").generation for config in (COGVLM, COGVLM2)] == list(Generation)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["CogAgentForCausalLM"]}, "is CogAgent, another architecture"),
        ({"architectures": ["CogVLMVideoForCausalLM"]}, "is made for videos"),
        ({"architectures": ["LlamaForCausalLM"]}, "no checkpoint of CogVLM"),
        ({"architectures": None}, "no checkpoint of CogVLM"),
        ({"quantization_config": {"load_in_4bit": True}}, "is quantised already"),
        ({"vocab_size": None}, "no usable 'vocab_size'"),
        ({"hidden_size": -1}, "no usable 'hidden_size'"),
        ({"hidden_size": True}, "no usable 'hidden_size'"),
        ({"eos_token_id": []}, "no usable 'eos_token_id'"),
        ({"rms_norm_eps": "tiny"}, "no usable 'rms_norm_eps'"),
        ({"vision_config": None}, r"\(vision_config\) has no usable 'hidden_size'"),
        ({"vision_config": {**TOWER, "image_size": 490, "num_positions": 1225}}, "'num_positions' does not"),
        ({"num_attention_heads": 31}, "'num_attention_heads' does not"),
        ({"num_multi_query_heads": 5}, "'num_multi_query_heads' does not"),
        ({"pad_token_id": 32000}, "'pad_token_id' does not"),
        ({"num_hidden_layers": 2**31 - 1}, "'num_hidden_layers' does not"),
    ],
)
def test_what_is_not_cogvlm_is_refused(change: Mapping[str, Any], sentence: str) -> None:
    """With the cause, and what to do about it."""
    with pytest.raises(LoadError, match=f"x/y.*{sentence}.*; (choose|take|download) "):
        read({**COGVLM, **change}, "x/y")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"template_version": "base"}, "a 'template_version' that cannot be served; only chat and vqa can"),
        ({"hidden_act": "relu"}, "a 'hidden_act' that cannot be served; only silu can"),
        ({"torch_dtype": {"a": 1}}, "a 'torch_dtype' that cannot be served; only bfloat16 and float16 and float32 can"),
        ({"dtype": "int8"}, "a 'dtype' that cannot be served"),
        ({"vision_config": {**TOWER, "hidden_act": "quick_gelu"}}, r"\(vision_config\) has a 'hidden_act' that"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(change: Mapping[str, Any], sentence: str) -> None:
    """What is made here can be one thing only, and says which."""
    with pytest.raises(LoadError, match=f"the config.json of x/y.*{sentence}"):
        read({**COGVLM, **change}, "x/y")


def test_an_architecture_is_known_by_its_fields() -> None:
    """Equal configurations are equal architectures, whatever else the files say."""
    again: Architecture = read({**COGVLM, "use_cache": True, "transformers_version": "4.35.0"}, "again")

    assert again == read(COGVLM, "it")
