"""Checkpoints of some hundred thousand seeded random weights, laid out as CogVLM's authors publish theirs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaTokenizer

from tests.engines.cogvlm import vocabulary
from tests.engines.vllm.vocabulary import words

PATCH = 14
POSITIONS = 512
VISION = {
    "dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 32,
    "in_channels": 3,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-06,
    "num_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": PATCH,
}
REMOTE_CODE = 'raise AssertionError("a checkpoint\'s own code was run")\n'
# What sharpens the attention and makes an answer depend on the picture more than on the last token.
SCALES = {
    "query_key_value.weight": 1.5,
    "expert_dense.weight": 2.0,
    "position_embedding.weight": 0.5,
    "dense_4h_to_h.weight": 4.0,
}


@dataclass(frozen=True)
class Published:
    """A checkpoint's folder, and that of its tokenizer where it is published by itself."""

    checkpoint: Path
    tokenizer: Path | None


def cogvlm(folder: Path, side: int = 4, seed: int = 11) -> Published:
    """Write a CogVLM, laid out like zai-org/cogvlm-chat-hf, which has no tokenizer of its own.

    Its config.json leaves out the epsilon of its norms, which is then the authors' class's own. Its pictures have
    `side` patches a side, and become that many squared tokens and two more.
    """
    checkpoint, tokenizer = folder / "checkpoint", folder / "tokenizer"
    checkpoint.mkdir(parents=True)
    tokenizer.mkdir()
    vocabulary.vicuna(tokenizer)
    ids = LlamaTokenizer.from_pretrained(tokenizer).get_vocab()
    language = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    config = _config(language, side, vocab_size=len(ids), bos_token_id=1, eos_token_id=2, pad_token_id=0)
    del config["rms_norm_eps"]
    _save(checkpoint, config, _draw(config, ids, rope_base=10000, seed=seed))
    return Published(checkpoint, tokenizer)


def cogvlm2(folder: Path, side: int = 8, seed: int = 11) -> Published:
    """Write a CogVLM2, laid out like zai-org/cogvlm2-llama3-chat-19B.

    Its pictures have `side` patches a side; four become one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.llama3(folder)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    bos, eos, placeholder = (ids[token] for token in vocabulary.LLAMA3_SPECIAL[:3])
    language = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "num_multi_query_heads": 2}
    config = _config(language, side, vocab_size=len(ids), bos_token_id=bos, eos_token_id=eos, pad_token_id=placeholder)
    _save(folder, config, _draw(config, ids, rope_base=500000, seed=seed))
    return Published(folder, None)


def cogvlm2_large(folder: Path) -> Published:
    """Write a CogVLM2 whose pictures, of 66 tokens, are longer than two blocks of a CPU's KV cache."""
    return cogvlm2(folder, side=16, seed=17)


ALL = (cogvlm, cogvlm2, cogvlm2_large)


def _config(language: Mapping[str, int], side: int, **tokens: int) -> dict[str, Any]:
    """Make config.json: the class is the authors' own, and nothing names a type of model."""
    code = {
        "AutoConfig": "configuration_cogvlm.CogVLMConfig",
        "AutoModelForCausalLM": "modeling_cogvlm.CogVLMForCausalLM",
    }
    return {
        "architectures": ["CogVLMForCausalLM"],
        "auto_map": code,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": POSITIONS,
        "num_hidden_layers": 3,
        "rms_norm_eps": 1e-05,
        "template_version": "chat",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vision_config": {**VISION, "image_size": side * PATCH, "num_positions": side * side + 1},
        **language,
        **tokens,
    }


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """List the published tensors but for the rotary frequencies."""
    hidden, vision, second = config["hidden_size"], config["vision_config"], "num_multi_query_heads" in config
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for number in range(config["num_hidden_layers"]):
        shapes |= _named(f"model.layers.{number}.", _layer(config, second))
    for number in range(vision["num_hidden_layers"]):
        shapes |= _named(f"model.vision.transformer.layers.{number}.", _vision_layer(vision))
    return shapes | _named("model.vision.", _around_vision(config, second))


def _layer(config: Mapping[str, Any], second: bool) -> dict[str, tuple[int, ...]]:
    """List a decoder layer's tensors: two experts, shared norms."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width = hidden + 2 * hidden // heads * config.get("num_multi_query_heads", heads)
    shapes: dict[str, tuple[int, ...]] = {f"{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
    for expert in ("vision", "language"):
        shapes[f"self_attn.{expert}_expert_query_key_value.weight"] = (width, hidden)
        shapes[f"self_attn.{expert}_expert_dense.weight"] = (hidden, hidden)
        shapes |= {f"mlp.{expert}_mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[f"mlp.{expert}_mlp.down_proj.weight"] = (hidden, inner)
    return shapes | ({"self_attn.vision_expert_query_key_value.bias": (width,)} if second else {})


def _vision_layer(vision: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """List a vision layer's tensors."""
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    matrices = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.fc1": (inner, hidden),
        "mlp.fc2": (hidden, inner),
    }
    norms = [f"{norm}_layernorm" for norm in ("input", "post_attention")]
    weights = {f"{name}.weight": shape for name, shape in matrices.items()} | {f"{n}.weight": (hidden,) for n in norms}
    return weights | {name.replace("weight", "bias"): shape[:1] for name, shape in weights.items()}


def _around_vision(config: Mapping[str, Any], second: bool) -> dict[str, tuple[int, ...]]:
    """List what stands before and after the vision layers."""
    hidden, inner, vision = config["hidden_size"], config["intermediate_size"], config["vision_config"]
    seen = vision["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.proj.weight": (seen, 3, PATCH, PATCH),
        "patch_embedding.proj.bias": (seen,),
        "patch_embedding.cls_embedding": (1, seen),
        "patch_embedding.position_embedding.weight": (vision["num_positions"], seen),
        "linear_proj.linear_proj.weight": (hidden, seen),
        "linear_proj.norm1.weight": (hidden,),
        "linear_proj.norm1.bias": (hidden,),
        "linear_proj.gate_proj.weight": (inner, hidden),
        "linear_proj.dense_h_to_4h.weight": (inner, hidden),
        "linear_proj.dense_4h_to_h.weight": (hidden, inner),
        "boi": (1, 1, hidden),
        "eoi": (1, 1, hidden),
    }
    return shapes | ({"conv.weight": (seen, seen, 2, 2), "conv.bias": (seen,)} if second else {})


def _named(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Put a prefix before every name."""
    return {prefix + name: shape for name, shape in shapes.items()}


def _draw(config: Mapping[str, Any], ids: Mapping[str, int], rope_base: float, seed: int) -> dict[str, torch.Tensor]:
    """Draw all weights so that products stay about as large as their factors: then every error shows in the tokens."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in _shapes(config).items():
        drawn = torch.randn(shape, generator=generator)
        if "norm" in name:
            weights[name] = 0.3 * drawn + (1 if name.endswith("weight") else 0)
        elif name.endswith("bias"):
            weights[name] = 0.3 * drawn
        elif name.endswith(("boi", "eoi", "cls_embedding", "embed_tokens.weight", "position_embedding.weight")):
            weights[name] = drawn * _scale(name)
        else:
            weights[name] = drawn / drawn[0].numel() ** 0.5 * _scale(name)
    weights["lm_head.weight"] *= _loudness(ids, end=config["eos_token_id"])
    head = config["hidden_size"] // config["num_attention_heads"]
    frequencies = rope_base ** -(torch.arange(0, head, 2) / head)
    rotary = [f"model.layers.{number}.self_attn.rotary_emb.inv_freq" for number in range(config["num_hidden_layers"])]
    return {**weights, **{name: frequencies.clone() for name in rotary}}


def _scale(name: str) -> float:
    """Look up by how much a tensor is larger than the rest."""
    return next((scale for end, scale in SCALES.items() if name.endswith(end)), 1.0)


def _loudness(ids: Mapping[str, int], end: int) -> torch.Tensor:
    """Make whole words far likelier than bytes and special tokens, and the end somewhat rarer than a word."""
    loudness = torch.full((len(ids), 1), 0.1)
    loudness[[ids[word] for word in words(ids)]] = 1.0
    loudness[end] = 0.7
    return loudness


def _save(folder: Path, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Write the folder: configurations, two files of weights with their index, and the code that nobody may run."""
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokens = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True, **tokens}))
    for code in ("configuration_cogvlm.py", "modeling_cogvlm.py"):
        (folder / code).write_text(REMOTE_CODE)
    names = sorted(weights)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name].bfloat16() for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = {"total_size": sum(2 * weight.numel() for weight in weights.values())}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": total, "weight_map": weight_map}))
