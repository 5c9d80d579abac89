"""Checkpoints of a few hundred thousand seeded random weights, laid out like the published ones of three families."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipImageProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVideoProcessor,
    PreTrainedModel,
)

from tests.engines.vllm import vocabulary

HERE = Path(__file__).parent
SIDE = 32
PATCH = 8
SQUARE = {"height": SIDE, "width": SIDE}
LAYERS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
POSITIONS = 1024
TILE_TOKENS = (SIDE // PATCH // 2) ** 2
QUERIES = 4


def gemma3(folder: Path) -> Path:
    """Write a Gemma 3, laid out like google/gemma-3-4b-it."""
    tokenizer = vocabulary.gemma()
    tokenizer.chat_template = (HERE / "gemma3.jinja").read_text()
    ids = tokenizer.get_vocab()
    model = Gemma3ForConditionalGeneration(_gemma3_config(ids))
    norms = {"q_norm.weight": 2, "k_norm.weight": 2, "attention_layernorm.weight": 9, "feedforward_layernorm.weight": 9}
    _draw(model, seed=4, scales=norms)
    _favour_words(model.get_input_embeddings(), ids, end="<end_of_turn>")
    published = {
        "model.language_model": "language_model.model",
        "model.vision_tower": "vision_tower.vision_model",
        "model.multi_modal_projector": "multi_modal_projector",
    }
    _save_model(folder, model, published)
    tokenizer.save_pretrained(folder)
    Gemma3ImageProcessor(size=SQUARE).save_pretrained(folder)
    _save_settings(folder, "processor", processor_class="Gemma3Processor", image_seq_length=1)
    ends = [ids["<eos>"], ids["<end_of_turn>"]]
    _save_settings(folder, "generation", eos_token_id=ends, do_sample=True, top_k=64, top_p=0.95)
    return folder


def internvl(folder: Path) -> Path:
    """Write an InternVL, laid out like OpenGVLab/InternVL3-1B-hf."""
    tokenizer = vocabulary.qwen2()
    tokenizer.chat_template = (HERE / "internvl.jinja").read_text()
    ids = tokenizer.get_vocab()
    model = InternVLForConditionalGeneration(_internvl_config(ids))
    _draw(model, seed=6, scales={"q_proj.weight": 4, "linear_2.weight": 4, "lambda_1": 1, "lambda_2": 1})
    _favour_words(model.get_output_embeddings(), ids, end="<|im_end|>")
    published = {
        "model.language_model": "language_model.model",
        "lm_head": "language_model.lm_head",
        "model.vision_tower": "vision_tower",
        "model.multi_modal_projector": "multi_modal_projector",
    }
    _save_model(folder, model, published)
    tokenizer.save_pretrained(folder)
    GotOcr2ImageProcessor(size=SQUARE).save_pretrained(folder)
    InternVLVideoProcessor(size=SQUARE).save_pretrained(folder)
    _save_settings(folder, "processor", processor_class="InternVLProcessor", image_seq_length=TILE_TOKENS)
    _save_settings(folder, "generation", eos_token_id=ids["<|im_end|>"])
    return folder


def blip2(folder: Path) -> Path:
    """Write a BLIP-2 with OPT, laid out like Salesforce/blip2-opt-2.7b, which has no chat template."""
    tokenizer = vocabulary.opt()
    ids = tokenizer.get_vocab()
    model = Blip2ForConditionalGeneration(_blip2_config(ids))
    _draw(model, seed=6, scales={"q_proj.weight": 8, "out_proj.weight": 3, "fc2.weight": 3})
    _favour_words(model.get_output_embeddings(), ids, end=vocabulary.LINE_BREAK)
    _save_model(folder, model, published={})
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size=SQUARE).save_pretrained(folder)
    _save_settings(folder, "processor", processor_class="Blip2Processor", num_query_tokens=QUERIES)
    _save_settings(folder, "generation", eos_token_id=ids[vocabulary.LINE_BREAK])
    return folder


FAMILIES = {"gemma3": gemma3, "internvl": internvl, "blip2": blip2}


def _gemma3_config(ids: Mapping[str, int]) -> Gemma3Config:
    """A picture is one token: vLLM's attention on a CPU is causal among those of one picture, the model's is not."""
    text = {
        **LAYERS,
        "vocab_size": len(ids),
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": POSITIONS,
    }
    return Gemma3Config(
        text_config=text,
        vision_config={**LAYERS, "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False},
        mm_tokens_per_image=1,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )


def _internvl_config(ids: Mapping[str, int]) -> InternVLConfig:
    """Wide and tall pictures are cut into tiles, as the processor of the published ones does by default."""
    text = {
        **LAYERS,
        "model_type": "qwen2",
        "vocab_size": len(ids),
        "num_key_value_heads": 1,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": False,
    }
    return InternVLConfig(
        text_config=text,
        vision_config={**LAYERS, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH], "attention_bias": True},
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=TILE_TOKENS,
        tie_word_embeddings=False,
    )


def _blip2_config(ids: Mapping[str, int]) -> Blip2Config:
    """An answer ends with its line."""
    text = {
        "model_type": "opt",
        "vocab_size": len(ids),
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "eos_token_id": ids[vocabulary.LINE_BREAK],
    }
    return Blip2Config(
        text_config=text,
        vision_config={**LAYERS, "image_size": SIDE, "patch_size": PATCH},
        qformer_config=LAYERS,
        num_query_tokens=QUERIES,
        image_token_index=ids["<image>"],
    )


def _draw(model: PreTrainedModel, seed: int, scales: Mapping[str, float]) -> None:
    """Draw matrices so that their products stay as large as their factors, and small biases; norms stay as they are.

    What a name ends in scales its matrix or fills its vector. The scales sharpen the attention and let it outweigh what
    the last token was, so that an answer depends on the picture and seldom repeats one word; so do the seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = next((scale for end, scale in scales.items() if name.endswith(end)), None)
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(drawn / weight[0].numel() ** 0.5 * (scale or 1))
            elif scale is not None:
                weight.fill_(scale)
            elif name.endswith(".bias"):
                weight.copy_(drawn * 0.1)


def _favour_words(embeddings: torch.nn.Module, ids: Mapping[str, int], end: str) -> None:
    """Make whole words far likelier than bytes and special tokens, and the end somewhat rarer than a word."""
    loudness = torch.full((len(ids), 1), 0.1)
    loudness[[ids[word] for word in vocabulary.words(ids)]] = 1.0
    loudness[ids[end]] = 0.7
    with torch.no_grad():
        embeddings.get_parameter("weight").mul_(loudness)


def _save_model(folder: Path, model: PreTrainedModel, published: Mapping[str, str]) -> None:
    """Write the configuration, and the weights under the published checkpoints' prefixes, not Transformers' own."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    weights = {}
    for name, weight in model.named_parameters():
        prefix = next((prefix for prefix in published if name.startswith(prefix)), "")
        weights[published.get(prefix, "") + name.removeprefix(prefix)] = weight.detach()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _save_settings(folder: Path, part: str, **settings: object) -> None:
    """Write a part's configuration."""
    (folder / f"{part}_config.json").write_text(json.dumps(settings))
