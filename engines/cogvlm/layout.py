"""What a CogVLM checkpoint holds: its architecture, each tensor's name and shape, its configuration. Pure.

Both generations are published under one architecture's name and without a `model_type`, and some of what differs
between them stands only in their authors' code. All of it is known here and nowhere else: the configuration that is
made here says everything, and the model does not ask which generation it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, Final

from engines.loading import LoadError

ARCHITECTURE: Final = "CogVLMForCausalLM"
MODEL_TYPE: Final = "cogvlm"
MARK: Final = "altgate"  # the field by which a configuration that was made here is known
VERSION: Final = 1  # of what is made here: what was made by another is made again
AGAIN: Final = "download the checkpoint again"

Shape = tuple[int, ...]


class Generation(IntEnum):
    """CogVLM, on Vicuna, and CogVLM2, on Llama 3."""

    COGVLM = 1
    COGVLM2 = 2


# Only their authors' code has it.
ROPE_THETA: Final[Mapping[Generation, float]] = {Generation.COGVLM: 10_000.0, Generation.COGVLM2: 500_000.0}
# What their configuration classes have where a file is silent.
DEFAULTS: Final[Mapping[Generation, Mapping[str, Any]]] = {
    Generation.COGVLM: {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "template_version": "chat",
    },
    Generation.COGVLM2: {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
        "pad_token_id": 128_002,
        "template_version": "chat",
    },
}
# What their programs could do otherwise, and what is made here could not.
DTYPES: Final = ("bfloat16", "float16", "float32")
FORMS: Final = ("chat", "vqa")
MAX_LAYERS: Final = 1000
NOT_COGVLM: Final[Mapping[str, str]] = {
    "CogAgentForCausalLM": "is CogAgent, another architecture than CogVLM's, which cannot be served",
    "CogVLMVideoForCausalLM": "is made for videos, of another architecture than CogVLM's, and cannot be served",
}


@dataclass(frozen=True)
class Vision:
    """The tower that looks at a picture, EVA2-CLIP-E; sizes in pixels, widths in numbers.

    `num_positions` counts the patches and the class token. `downsample` says that each two by two patches become one.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_heads: int
    num_positions: int
    patch_size: int
    image_size: int
    in_channels: int
    layer_norm_eps: float
    downsample: bool

    @property
    def patches(self) -> int:
        """How many patches of a picture the language model sees."""
        return (self.num_positions - 1) // (4 if self.downsample else 1)


@dataclass(frozen=True)
class Architecture:
    """One generation of CogVLM at some size, as its authors' config.json describes it.

    `max_position_embeddings` is theirs, in positions and not in tokens; `dtype` is what the weights are published in.
    """

    generation: Generation
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    max_position_embeddings: int
    bos_token_id: int
    eos_token_id: int | list[int]
    pad_token_id: int
    template_version: str
    dtype: str
    vision: Vision

    @property
    def image_tokens(self) -> int:
        """What a picture takes of the prompt: its patches between a token that opens and one that closes."""
        return self.vision.patches + 2

    @property
    def head_dim(self) -> int:
        """The width of an attention head of the language model."""
        return self.hidden_size // self.num_attention_heads

    def tensors(self) -> dict[str, Shape]:
        """Every tensor that a checkpoint must have, by its published name."""
        return dict((*self._language(), *self._experts(), *self._tower(), *self._adapter()))

    def optional_tensors(self) -> dict[str, Shape]:
        """Tensors that checkpoints have and no one needs: the rotary frequencies follow from the configuration."""
        names = (f"model.layers.{at}.self_attn.rotary_emb.inv_freq" for at in range(self.num_hidden_layers))
        return dict.fromkeys(names, (self.head_dim // 2,))

    def endings(self, published: Mapping[str, Any], name: str) -> list[int]:
        """The tokens that end an answer, by both files that name some: config.json, and this generation_config.json.

        Raises:
            LoadError: one of them is no token of the model.
        """
        fields = _Fields(published, name, "generation_config.json")
        others = _list(fields.tokens("eos_token_id")) if published.get("eos_token_id") is not None else []
        ids = list(dict.fromkeys((*_list(self.eos_token_id), *others)))
        if max(ids) >= self.vocab_size:
            raise LoadError(f"{name} ends its answers with a token that it does not have: {max(ids)}; {AGAIN}")
        return ids

    def configuration(self) -> dict[str, Any]:
        """The config.json that our own model reads, without any rule left to know."""
        return {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            MARK: VERSION,
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            # All patches share one position, so a prompt with a picture may have that many tokens more.
            "max_position_embeddings": self.max_position_embeddings + self.image_tokens - 3,
            "rope_theta": ROPE_THETA[self.generation],
            "rope_tables": "float32",
            "vision_qkv_bias": self._vision_qkv_bias,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "tie_word_embeddings": False,
            "image_tokens": self.image_tokens,
            "template_version": self.template_version,
            "vision_config": {**asdict(self.vision), "hidden_act": "gelu"},
        }

    @property
    def _vision_qkv_bias(self) -> bool:
        return self.generation is Generation.COGVLM2

    def _language(self) -> Iterator[tuple[str, Shape]]:
        """Embedding, head and norms, which both experts share."""
        width = self.hidden_size
        yield "model.embed_tokens.weight", (self.vocab_size, width)
        yield "lm_head.weight", (self.vocab_size, width)
        yield "model.norm.weight", (width,)
        for at in range(self.num_hidden_layers):
            yield f"model.layers.{at}.input_layernorm.weight", (width,)
            yield f"model.layers.{at}.post_attention_layernorm.weight", (width,)

    def _experts(self) -> Iterator[tuple[str, Shape]]:
        """What each layer has twice, once for tokens of a picture and once for all others."""
        width, inner = self.hidden_size, self.intermediate_size
        qkv = width + 2 * self.num_key_value_heads * self.head_dim
        for at in range(self.num_hidden_layers):
            for expert in ("vision", "language"):
                attention = f"model.layers.{at}.self_attn.{expert}_expert"
                yield f"{attention}_query_key_value.weight", (qkv, width)
                yield f"{attention}_dense.weight", (width, width)
                mlp = f"model.layers.{at}.mlp.{expert}_mlp"
                yield f"{mlp}.gate_proj.weight", (inner, width)
                yield f"{mlp}.up_proj.weight", (inner, width)
                yield f"{mlp}.down_proj.weight", (width, inner)
            if self._vision_qkv_bias:
                yield f"model.layers.{at}.self_attn.vision_expert_query_key_value.bias", (qkv,)

    def _tower(self) -> Iterator[tuple[str, Shape]]:
        """The vision tower."""
        vision = self.vision
        width, inner = vision.hidden_size, vision.intermediate_size
        embedding = "model.vision.patch_embedding"
        yield f"{embedding}.cls_embedding", (1, width)
        yield f"{embedding}.position_embedding.weight", (vision.num_positions, width)
        yield from _biased(f"{embedding}.proj", (width, vision.in_channels, vision.patch_size, vision.patch_size))
        for at in range(vision.num_hidden_layers):
            layer = f"model.vision.transformer.layers.{at}"
            yield from _biased(f"{layer}.attention.query_key_value", (3 * width, width))
            yield from _biased(f"{layer}.attention.dense", (width, width))
            yield from _biased(f"{layer}.mlp.fc1", (inner, width))
            yield from _biased(f"{layer}.mlp.fc2", (width, inner))
            yield from _biased(f"{layer}.input_layernorm", (width,))
            yield from _biased(f"{layer}.post_attention_layernorm", (width,))

    def _adapter(self) -> Iterator[tuple[str, Shape]]:
        """What lies between tower and language model, and the two learned tokens around a picture."""
        width, inner, seen = self.hidden_size, self.intermediate_size, self.vision.hidden_size
        if self.vision.downsample:
            yield from _biased("model.vision.conv", (seen, seen, 2, 2))
        adapter = "model.vision.linear_proj"
        yield f"{adapter}.linear_proj.weight", (width, seen)
        yield from _biased(f"{adapter}.norm1", (width,))
        yield f"{adapter}.gate_proj.weight", (inner, width)
        yield f"{adapter}.dense_h_to_4h.weight", (inner, width)
        yield f"{adapter}.dense_4h_to_h.weight", (width, inner)
        yield "model.vision.boi", (1, 1, width)
        yield "model.vision.eoi", (1, 1, width)


def read(config: Mapping[str, Any], name: str) -> Architecture:
    """The architecture that a published config.json describes; `name` is the checkpoint's, for people.

    Raises:
        LoadError: it is another model's, or quantised, or does not fit together.
    """
    _ensure_cogvlm(config, name)
    is_second = "num_multi_query_heads" in config
    generation = Generation.COGVLM2 if is_second else Generation.COGVLM
    fields = _Fields({**DEFAULTS[generation], "torch_dtype": "bfloat16", "hidden_act": "silu", **config}, name)
    fields.one_of("hidden_act", ("silu",))
    heads = fields.count("num_attention_heads")
    architecture = Architecture(
        generation=generation,
        vocab_size=fields.count("vocab_size"),
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_hidden_layers=fields.count("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=fields.count("num_multi_query_heads") if is_second else heads,
        rms_norm_eps=fields.epsilon("rms_norm_eps"),
        max_position_embeddings=fields.count("max_position_embeddings"),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_id=fields.tokens("eos_token_id"),
        pad_token_id=fields.token("pad_token_id"),
        template_version=fields.one_of("template_version", FORMS),
        dtype=fields.one_of("dtype" if config.get("dtype") else "torch_dtype", DTYPES),
        vision=_vision(_tower_fields(config.get("vision_config"), name), downsample=is_second),
    )
    _ensure_consistent(architecture, name)
    return architecture


def is_published(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of CogVLM's family as its authors publish it, hence to be prepared or refused.

    It names no type of model then, unless a library that saved it again has put one in.
    """
    is_theirs = config.get("model_type") in (None, "", MODEL_TYPE) and not is_prepared(config)
    return is_theirs and not {ARCHITECTURE, *NOT_COGVLM}.isdisjoint(_architectures(config))


def is_prepared(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one that was made here."""
    return config.get("model_type") == MODEL_TYPE and MARK in config


class _Fields:
    """The fields of a config.json, of which nothing is taken on trust."""

    def __init__(self, values: object, name: str, file: str = "config.json") -> None:
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        self._name = name
        self._file = file

    def count(self, key: str) -> int:
        value = self._values.get(key)
        return value if type(value) is int and 0 < value < 2**31 else self._refuse(key)

    def token(self, key: str) -> int:
        value = self._values.get(key)
        return value if type(value) is int and 0 <= value < 2**31 else self._refuse(key)

    def tokens(self, key: str) -> int | list[int]:
        value = self._values.get(key)
        is_list = isinstance(value, list) and value and all(type(each) is int and 0 <= each < 2**31 for each in value)
        return list(value) if is_list and isinstance(value, list) else self.token(key)

    def epsilon(self, key: str) -> float:
        value = self._values.get(key)
        return value if isinstance(value, float) and 0 < value < 1 else self._refuse(key)

    def one_of(self, key: str, known: Sequence[str]) -> str:
        value = self._values.get(key)
        if value in known:
            return str(value)
        raise LoadError(
            f"the {self._file} of {self._name} has a '{key}' that cannot be served; only {' and '.join(known)} can"
        )

    def _refuse(self, key: str) -> Any:
        raise LoadError(f"the {self._file} of {self._name} has no usable '{key}'; {AGAIN}")


def _tower_fields(values: object, name: str) -> _Fields:
    given = values if isinstance(values, Mapping) else {}
    return _Fields({"hidden_act": "gelu", **given}, f"{name} (vision_config)")


def _vision(fields: _Fields, *, downsample: bool) -> Vision:
    fields.one_of("hidden_act", ("gelu",))
    return Vision(
        hidden_size=fields.count("hidden_size"),
        intermediate_size=fields.count("intermediate_size"),
        num_hidden_layers=fields.count("num_hidden_layers"),
        num_heads=fields.count("num_heads"),
        num_positions=fields.count("num_positions"),
        patch_size=fields.count("patch_size"),
        image_size=fields.count("image_size"),
        in_channels=fields.count("in_channels"),
        layer_norm_eps=fields.epsilon("layer_norm_eps"),
        downsample=downsample,
    )


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [str(each) for each in named] if isinstance(named, list) else []


def _ensure_cogvlm(config: Mapping[str, Any], name: str) -> None:
    if is_prepared(config):
        raise LoadError(f"{name} is prepared already; use it as it is")
    named = _architectures(config)
    for architecture, sentence in NOT_COGVLM.items():
        if architecture in named:
            raise LoadError(f"{name} {sentence}; choose cogvlm-chat-hf or cogvlm2-llama3-chat-19B")
    if ARCHITECTURE not in named:
        raise LoadError(f"{name} is no checkpoint of CogVLM; choose cogvlm-chat-hf or cogvlm2-llama3-chat-19B")
    if config.get("quantization_config"):
        raise LoadError(
            f"{name} is quantised already, in a form that only its authors' code reads; "
            "take the full checkpoint, and quantise it while it is loaded"
        )


def _ensure_consistent(architecture: Architecture, name: str) -> None:
    vision = architecture.vision
    side = vision.image_size // vision.patch_size
    fits = {
        "num_attention_heads": architecture.hidden_size % (2 * architecture.num_attention_heads) == 0,
        "num_multi_query_heads": architecture.num_attention_heads % architecture.num_key_value_heads == 0,
        "num_positions": vision.num_positions == side**2 + 1 and not (vision.downsample and side % 2),
        "num_heads": vision.hidden_size % vision.num_heads == 0,
        "num_hidden_layers": max(architecture.num_hidden_layers, vision.num_hidden_layers) <= MAX_LAYERS,
        "bos_token_id": architecture.bos_token_id < architecture.vocab_size,
        "pad_token_id": architecture.pad_token_id < architecture.vocab_size,
    }
    for key, good in fits.items():
        if not good:
            raise LoadError(f"the config.json of {name} does not fit together: '{key}' does not; {AGAIN}")


def _list(ids: int | list[int]) -> list[int]:
    return ids if isinstance(ids, list) else [ids]


def _biased(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """A weight and the bias that goes with it."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
