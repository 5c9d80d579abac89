"""CogVLM and CogVLM2 in plain PyTorch: what the plugin's tokens have to equal.

Written from the published architecture, in float32, for one sequence at a time, for clarity and not for speed: nothing
is kept from one token to the next. Of the plugin it knows nothing. Shapes: T tokens, P of them the picture's, H hidden.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from tests.engines.cogvlm.tiny import Published

CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
ADAPTER_EPS = 1e-5
RMS_EPS = 1e-6  # where config.json has none: CogVLM's class's own


@dataclass(frozen=True)
class Rules:
    """What is peculiar to CogVLM, each rule with its switch: a test must notice when one of them is broken."""

    experts: bool = True
    boi_is_vision: bool = True
    eoi_is_vision: bool = False
    patches_share_position: bool = True
    rope_base: float | None = None  # None: the generation's own


@dataclass(frozen=True)
class Answer:
    """New tokens, the end among them, with natural log-probabilities, their text, and the narrowest choice.

    A margin is by how much the log-probability of the chosen token beat that of the next best.
    """

    ids: list[int]
    logprobs: list[float]
    text: str
    margin: float


class Reference:
    """A published checkpoint in float32."""

    def __init__(self, published: Published, rules: Rules | None = None) -> None:
        folder = published.checkpoint
        self.rules = rules or Rules()
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        second = "num_multi_query_heads" in self.config
        self.rope_base = self.rules.rope_base or (500000.0 if second else 10000.0)
        self.kv_heads: int = self.config.get("num_multi_query_heads", self.config["num_attention_heads"])
        self.weights = {
            name: weight.float() for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()
        }
        kind = PreTrainedTokenizerFast if second else LlamaTokenizer
        self.tokenizer: Any = kind.from_pretrained(published.tokenizer or folder)

    def prompt(self, text: str) -> list[int]:
        """Make the ids of a text on its own, bos before it; a picture's tokens are not among them."""
        return [self.config["bos_token_id"], *self.tokenizer.encode(text, add_special_tokens=False)]

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], picture: Image.Image | None, max_tokens: int) -> Answer:
        """Decode greedily to the end of the text, or so many tokens."""
        seen = torch.empty(0, self.config["hidden_size"]) if picture is None else self.see(picture)
        ids: list[int] = []
        logprobs, margins = [], []
        while len(ids) < max_tokens and ids[-1:] != [self.config["eos_token_id"]]:
            best = self.logits([*prompt, *ids], seen)[-1].log_softmax(-1).topk(2)
            ids.append(int(best.indices[0]))
            logprobs.append(float(best.values[0]))
            margins.append(float(best.values[0] - best.values[1]))
        return Answer(ids, logprobs, self.tokenizer.decode(ids, skip_special_tokens=True), min(margins))

    def see(self, picture: Image.Image) -> Tensor:
        """Turn a picture into what stands in place of its tokens [P, H]: boi, patches row by row, eoi."""
        vision = self.config["vision_config"]
        x = self._conv("patch_embedding.proj", pixels(picture, vision["image_size"]), vision["patch_size"])
        x = torch.cat([self.weights["model.vision.patch_embedding.cls_embedding"], x])
        x = x + self.weights["model.vision.patch_embedding.position_embedding.weight"]
        for number in range(vision["num_hidden_layers"]):
            x = self._vision_layer(f"model.vision.transformer.layers.{number}", x)
        x = x[1:]
        if "model.vision.conv.weight" in self.weights:
            side = isqrt(len(x))
            x = self._conv("conv", x.T.reshape(-1, side, side), stride=2)
        boi, eoi = (self.weights[f"model.vision.{name}"][0] for name in ("boi", "eoi"))
        return torch.cat([boi, self._adapt(x), eoi])

    def logits(self, ids: Sequence[int], seen: Tensor) -> Tensor:
        """Score every next token [T, vocabulary], after texts' tokens with what was seen [P, H] behind the first."""
        embedded = functional.embedding(torch.tensor(ids), self.weights["model.embed_tokens.weight"])
        x = torch.cat([embedded[:1], seen, embedded[1:]])
        vision, positions = layout(len(ids), len(seen), self.rules)
        for number in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{number}"
            x = x + self._attend(f"{layer}.self_attn", self._rms(f"{layer}.input_layernorm", x), vision, positions)
            rows = self._rms(f"{layer}.post_attention_layernorm", x)
            x = x + self._experts(self._mlp, f"{layer}.mlp.*_mlp", rows, vision)
        return self._linear("lm_head", self._rms("model.norm", x))

    def _attend(self, name: str, x: Tensor, vision: Tensor, positions: Tensor) -> Tensor:
        """Attend causally to all tokens [T, H], with queries, keys and values of each token's own expert."""
        heads, kv_heads = self.config["num_attention_heads"], self.kv_heads
        mixed = self._experts(self._linear, f"{name}.*_expert_query_key_value", x, vision)
        q, k, v = by_head(mixed, heads + 2 * kv_heads).tensor_split([heads, heads + kv_heads])
        q, k = (rotate(part, positions, self.rope_base) for part in (q, k))
        k, v = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (k, v))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1)
        return self._experts(self._linear, f"{name}.*_expert_dense", attended, vision)

    def _experts(self, apply: Callable[[str, Tensor], Tensor], name: str, x: Tensor, vision: Tensor) -> Tensor:
        """Apply both experts, whose names stand for the star, to all tokens, and take each token's own."""
        language = apply(name.replace("*", "language"), x)
        if not self.rules.experts:
            return language
        return torch.where(vision[:, None], apply(name.replace("*", "vision"), x), language)

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        """Apply a gated MLP [T, H]."""
        gate, up = (self._linear(f"{name}.{part}_proj", x) for part in ("gate", "up"))
        return self._linear(f"{name}.down_proj", functional.silu(gate) * up)

    def _vision_layer(self, name: str, x: Tensor) -> Tensor:
        """Apply a layer whose norms stand inside the residual branches, after attention and MLP."""
        heads = self.config["vision_config"]["num_heads"]
        q, k, v = by_head(self._linear(f"{name}.attention.query_key_value", x), 3 * heads).chunk(3)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        eps = self.config["vision_config"]["layer_norm_eps"]
        x = x + self._norm(f"{name}.input_layernorm", self._linear(f"{name}.attention.dense", attended), eps)
        inner = functional.gelu(self._linear(f"{name}.mlp.fc1", x))
        return x + self._norm(f"{name}.post_attention_layernorm", self._linear(f"{name}.mlp.fc2", inner), eps)

    def _adapt(self, x: Tensor) -> Tensor:
        """Bring patches to the language model's width."""
        name = "model.vision.linear_proj"
        x = functional.gelu(self._norm(f"{name}.norm1", self._linear(f"{name}.linear_proj", x), ADAPTER_EPS))
        gated = functional.silu(self._linear(f"{name}.gate_proj", x)) * self._linear(f"{name}.dense_h_to_4h", x)
        return self._linear(f"{name}.dense_4h_to_h", gated)

    def _conv(self, name: str, x: Tensor, stride: int) -> Tensor:
        """Convolve [C, S, S] without overlap into rows of patches."""
        weight, bias = (self.weights[f"model.vision.{name}.{part}"] for part in ("weight", "bias"))
        return functional.conv2d(x, weight, bias, stride).flatten(1).T

    def _linear(self, name: str, x: Tensor) -> Tensor:
        """Multiply by a matrix, and add its bias where there is one."""
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def _rms(self, name: str, x: Tensor) -> Tensor:
        eps = self.config.get("rms_norm_eps", RMS_EPS)
        return functional.rms_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], eps)


def chat(question: str, history: Sequence[tuple[str, str]] = ()) -> str:
    """Put questions and answers in the form that the models were trained on for dialogue."""
    before = "".join(f"Question: {asked} Answer: {answered}\n" for asked, answered in history)
    return f"{before}Question: {question} Answer:"


def vqa(question: str) -> str:
    """Put a question in the form that asks for a short answer."""
    return f"Question: {question} Short answer:"


def pixels(picture: Image.Image, side: int) -> Tensor:
    """Squash a picture into a square [3, S, S] and normalise it as CLIP does."""
    squashed = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(squashed)).float() / 255
    return ((values - CLIP_MEAN) / CLIP_STD).permute(2, 0, 1)


def layout(text: int, seen: int, rules: Rules) -> tuple[Tensor, Tensor]:
    """Tell which tokens the vision expert gets, and every token's position, both [T].

    There are `text` tokens, and `seen` tokens of a picture behind the first of them. A picture's token whose next is
    the picture's too is vision's: that leaves the last out, eoi. All patches stand at one position.
    """
    picture = torch.zeros(text + seen + 1, dtype=torch.bool)
    picture[1 : 1 + seen] = True
    vision = picture[:-1] & picture[1:]
    inside = torch.zeros(text + seen, dtype=torch.bool)
    if seen:
        vision[1], vision[seen] = rules.boi_is_vision, rules.eoi_is_vision
        inside[3:seen] = rules.patches_share_position  # every patch after the first
    return vision, (~inside).cumsum(0) - 1


def by_head(x: Tensor, heads: int) -> Tensor:
    """Cut rows [T, heads * size] into heads [heads, T, size]."""
    return x.reshape(len(x), heads, -1).transpose(0, 1)


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Turn queries or keys [heads, T, size] by their positions: the first half of a head's numbers with the second."""
    half = x.shape[-1] // 2
    angles = positions[:, None] * base ** -(torch.arange(half) / half)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=-1)
