"""What vLLM takes from the plugin at its start: the registration, the configuration, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines.cogvlm.asking import ROOT, Inside

ALONE = """
import json, sys
from engines.cogvlm import plugin
first = [name for name in ("torch", "transformers", "vllm", "numpy") if name in sys.modules]
from vllm.engine.arg_utils import EngineArgs  # which every start of vLLM imports
plugin.register()
plugin.register()
from transformers import AutoConfig
from vllm import ModelRegistry
config = type(AutoConfig.for_model(**json.loads(sys.argv[1]))).__name__
known = "CogVLMForCausalLM" in ModelRegistry.get_supported_archs()
model = [name for name in ("engines.cogvlm.model", "vllm.model_executor.models.glm4v") if name in sys.modules]
print(json.dumps([first, config, known, model]))
"""
GRAPHS = {"cudagraph_mode": "FULL_DECODE_ONLY"}


def test_registering_is_light_and_may_be_done_twice(prepared: dict[str, Path]) -> None:
    """The module imports nothing, and registering, in whichever process and however often, not the model itself."""
    config = (prepared["cogvlm"] / "config.json").read_text()

    done = subprocess.run([sys.executable, "-c", ALONE, config], capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], "CogVLMConfig", True, []]


def test_the_entry_point_is_installed(inside: Inside, prepared: dict[str, Path]) -> None:
    """vLLM finds the plugin by itself, and a prompt may be longer than positions go, by a picture's patches."""
    settings = inside.start(prepared["cogvlm"])

    config = json.loads((prepared["cogvlm"] / "config.json").read_text())
    assert settings.refusal is None
    assert settings.max_model_len == config["max_position_embeddings"] == 512 + config["image_tokens"] - 3


@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        ({}, "FULL_DECODE_ONLY"),
        ({"compilation_config": {"mode": 0}}, "FULL_DECODE_ONLY"),
        ({"compilation_config": GRAPHS}, "FULL_DECODE_ONLY"),
        ({"compilation_config": {"cudagraph_mode": "NONE"}}, "NONE"),
        ({"enforce_eager": True}, "FULL_DECODE_ONLY"),  # which vLLM itself turns into none
    ],
    ids=["nothing", "mode", "graphs", "no graphs", "eager"],
)
def test_only_decoding_is_captured(
    inside: Inside, prepared: dict[str, Path], options: dict[str, Any], graphs: str
) -> None:
    """The plugin chooses graphs for decoding and no compilation; an operator's choice that is right holds."""
    settings = inside.start(prepared["cogvlm"], **options)

    assert settings.refusal is None
    assert (settings.mode, settings.graphs, settings.graphs_here) == ("NONE", graphs, "NONE")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"compilation_config": {"mode": 3}}, "CogVLM cannot be compiled"),
        ({"compilation_config": {"cudagraph_mode": "FULL"}}, "CogVLM can be captured in graphs for decoding alone"),
        ({"compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"}}, "CogVLM can be captured in graphs for"),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 8}, "`max-num-batched-tokens` (8) must be greater than"),
        ({"max_num_batched_tokens": 8}, "`max-num-batched-tokens` (8) must be greater than"),
        ({"long_prefill_token_threshold": 1}, "`long-prefill-token-threshold` must not be 1"),
        ({"scheduling_policy": "priority"}, '`scheduling-policy = "priority"` cannot be used with CogVLM'),
        ({"max_model_len": 20}, "`max_model_len` (20) has no room for a picture"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}},
            "CogVLM cannot be run with speculative decoding",
        ),
        ({"hf_overrides": {"rope_tables": "bf16"}}, "`rope_tables` must be one of float32, bfloat16"),
    ],
    ids=["compiled", "full", "piecewise", "few", "vLLM's own", "chunks", "priority", "short", "draft", "tables"],
)
def test_what_would_be_wrong_does_not_start(
    inside: Inside, prepared: dict[str, Path], options: dict[str, Any], sentence: str
) -> None:
    """vLLM ends with a sentence of ours, by whose first word the launcher knows it."""
    settings = inside.start(prepared["cogvlm"], **options)

    assert settings.refusal is not None
    assert f"cogvlm: {sentence}" in settings.refusal


def test_the_rotary_tables_are_exact_by_default(inside: Inside, prepared: dict[str, Path]) -> None:
    """Angles are computed in float32, from the generation's own base, for every position that a prompt may have."""
    config = json.loads((prepared["cogvlm2"] / "config.json").read_text())

    rows = torch.tensor(inside.rotate(prepared["cogvlm2"]).rows)

    frequencies = 500_000.0 ** -(torch.arange(0, 32, 2) / 32)
    angles = torch.arange(config["max_position_embeddings"])[:, None] * frequencies
    torch.testing.assert_close(rows, torch.cat([angles.cos(), angles.sin()], dim=1), rtol=0, atol=1e-4)


def test_the_authors_rotary_tables_can_be_had(inside: Inside, prepared: dict[str, Path]) -> None:
    """Frequencies, positions and angles are bfloat16's, in which positions above 256 are not distinct any more."""
    chosen = inside.rotate(prepared["cogvlm2"], hf_overrides={"rope_tables": "bfloat16"})

    rows = torch.tensor(chosen.rows)
    frequencies = (500_000.0 ** -(torch.arange(0, 32, 2) / 32)).to(torch.bfloat16)
    angles = torch.arange(100).to(torch.bfloat16)[:, None] * frequencies
    torch.testing.assert_close(rows[:100, :16], angles.cos().float(), rtol=0, atol=0)
    torch.testing.assert_close(rows[:100, 16:], angles.sin().float(), rtol=0, atol=0)
    assert torch.equal(rows[256], rows[257])
    assert not torch.equal(rows[255], rows[256])
