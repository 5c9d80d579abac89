"""CogVLM and CogVLM2 on vLLM: a Llama of which each layer has two experts, one for text and one for pictures.

Attention is over all tokens alike. What is computed from a token by itself (its query, key and value, the projection
of what it attended to, the feed-forward network) is one expert's work: the vision expert's for the token that opens a
picture and for its patches, the language expert's for all others. So decoding reads the language expert's weights only.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn
from typing_extensions import override
from vllm.config import CacheConfig, VllmConfig
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsMRoPE,
    SupportsMultiModal,
    SupportsQuant,
)
from vllm.model_executor.models.llama import LlamaMLP
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.platforms import current_platform
from vllm.sequence import IntermediateTensors

from engines.cogvlm.config import CogVLMConfig
from engines.cogvlm.hook import config_of, require_budgets
from engines.cogvlm.positions import positions as positions_of
from engines.cogvlm.processor import CogVLMDummyInputs, CogVLMProcessingInfo, CogVLMProcessor
from engines.cogvlm.vision import CogVLMVision


class Routes(NamedTuple):
    """The indices of a step's tokens, by the expert that computes them."""

    vision: torch.Tensor
    language: torch.Tensor


def routes_of(positions: torch.Tensor) -> Routes | None:
    """Who computes which token of a step, from the rows of positions [3, tokens]; None where language computes all.

    In a graph that is being captured language does: only steps of decoding are replayed from one.
    """
    if current_platform.is_cuda_alike() and torch.cuda.is_current_stream_capturing():
        return None
    seen = positions[1] != positions[0]
    vision = seen.nonzero().squeeze(1)
    return Routes(vision, (~seen).nonzero().squeeze(1)) if len(vision) else None


Expert = Callable[[torch.Tensor], torch.Tensor]


def routed(tokens: torch.Tensor, routes: Routes | None, vision: Expert, language: Expert) -> torch.Tensor:
    """Each row of `tokens`, [tokens, width], computed by its expert."""
    if routes is None:
        return language(tokens)
    seen = vision(tokens[routes.vision])
    computed = seen.new_empty(len(tokens), seen.shape[-1])
    computed[routes.vision] = seen
    if len(routes.language):
        computed[routes.language] = language(tokens[routes.language])
    return computed


class BFloat16RotaryEmbedding(RotaryEmbedding):
    """Rotary embedding with the authors' tables: frequencies, positions and angles are all rounded to bfloat16."""

    def _compute_cos_sin_cache(self) -> torch.Tensor:
        frequencies = self._compute_inv_freq(self.base).bfloat16()
        angles = torch.arange(self.max_position_embeddings).bfloat16()[:, None] * frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=-1)


def rotary_embedding(config: CogVLMConfig) -> RotaryEmbedding:
    """The rotation of queries and keys, by one row of positions; its tables are shared by all layers."""
    length = config.max_position_embeddings
    if config.rope_tables == "bfloat16":
        return BFloat16RotaryEmbedding(
            config.head_dim,
            config.head_dim,
            length,
            config.rope_theta,
            is_neox_style=True,
            dtype=torch.get_default_dtype(),
        )
    return get_rope(config.head_dim, length, rope_parameters={"rope_theta": config.rope_theta})


class CogVLMAttention(nn.Module):
    """Causal attention over all tokens, with two experts' projections before and after it."""

    def __init__(
        self,
        config: CogVLMConfig,
        rotary_emb: RotaryEmbedding,
        cache_config: CacheConfig | None,
        quant_config: QuantizationConfig | None,
        prefix: str,
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads

        def before(name: str, *, bias: bool = False) -> QKVParallelLinear:
            sizes, layer = (config.hidden_size, config.head_dim, heads, kv_heads), f"{prefix}.{name}"
            return QKVParallelLinear(*sizes, bias=bias, quant_config=quant_config, prefix=layer, return_bias=False)

        def after(name: str) -> RowParallelLinear:
            return RowParallelLinear(
                heads * config.head_dim,
                config.hidden_size,
                bias=False,
                reduce_results=False,
                quant_config=quant_config,
                prefix=f"{prefix}.{name}",
                return_bias=False,
            )

        self.language_expert_query_key_value = before("language_expert_query_key_value")
        self.vision_expert_query_key_value = before("vision_expert_query_key_value", bias=config.vision_qkv_bias)
        self.language_expert_dense = after("language_expert_dense")
        self.vision_expert_dense = after("vision_expert_dense")
        self.rotary_emb = rotary_emb
        # How many heads are this rank's, its layers know; key and value heads are repeated where they are too few.
        self.heads = self.language_expert_query_key_value.num_heads
        self.kv_heads = self.language_expert_query_key_value.num_kv_heads
        self.attn = Attention(
            self.heads,
            self.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=self.kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor, routes: Routes | None) -> torch.Tensor:
        """Hidden states [tokens, width] at rotary positions [tokens]."""
        qkv = routed(hidden_states, routes, self.vision_expert_query_key_value, self.language_expert_query_key_value)
        widths = [heads * self.head_dim for heads in (self.heads, self.kv_heads, self.kv_heads)]
        query, key, value = qkv.split(widths, dim=-1)
        query, key = self.rotary_emb(positions, query, key)
        attended = self.attn(query, key, value)
        return tensor_model_parallel_all_reduce(
            routed(attended, routes, self.vision_expert_dense, self.language_expert_dense)
        )


class CogVLMMLP(nn.Module):
    """Two experts' feed-forward networks."""

    def __init__(self, config: CogVLMConfig, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()

        def expert(name: str) -> LlamaMLP:
            return LlamaMLP(
                config.hidden_size,
                config.intermediate_size,
                config.hidden_act,
                quant_config=quant_config,
                prefix=f"{prefix}.{name}",
                reduce_results=False,
            )

        self.language_mlp = expert("language_mlp")
        self.vision_mlp = expert("vision_mlp")

    def forward(self, hidden_states: torch.Tensor, routes: Routes | None) -> torch.Tensor:
        """Hidden states [tokens, width]."""
        return tensor_model_parallel_all_reduce(routed(hidden_states, routes, self.vision_mlp, self.language_mlp))


class CogVLMDecoderLayer(nn.Module):
    """A layer of Llama's form; its norms are shared by both experts."""

    def __init__(self, vllm_config: VllmConfig, rotary_emb: RotaryEmbedding, prefix: str) -> None:
        super().__init__()
        config, quant_config = config_of(vllm_config), vllm_config.quant_config
        self.self_attn = CogVLMAttention(
            config, rotary_emb, vllm_config.cache_config, quant_config, prefix=f"{prefix}.self_attn"
        )
        self.mlp = CogVLMMLP(config, quant_config, prefix=f"{prefix}.mlp")
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, positions: torch.Tensor, routes: Routes | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer adds, [tokens, width], and the residual that it is to be added to."""
        hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(hidden_states, positions, routes)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states, routes), residual


class CogVLMModel(nn.Module):
    """The language model without its head."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = config_of(vllm_config)
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.embed_tokens",
        )
        rotary_emb = rotary_embedding(config)
        self.layers = nn.ModuleList(
            CogVLMDecoderLayer(vllm_config, rotary_emb, prefix=f"{prefix}.layers.{index}")
            for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of text, [tokens, width]."""
        return self.embed_tokens(input_ids)

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, inputs_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [tokens, width] from tokens or embeddings, and the rows of positions [3, tokens]."""
        hidden_states = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        residual = torch.zeros_like(hidden_states)
        routes = routes_of(positions)
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, positions[0], routes)
        return self.norm(hidden_states, residual)[0]


@MULTIMODAL_REGISTRY.register_processor(CogVLMProcessor, info=CogVLMProcessingInfo, dummy_inputs=CogVLMDummyInputs)
class CogVLMForCausalLM(nn.Module, SupportsMultiModal, SupportsMRoPE, SupportsQuant):
    """CogVLM or CogVLM2, as its configuration says."""

    packed_modules_mapping = {  # noqa: RUF012 - as all models of vLLM have it
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={"model.vision.": "vision."},
        orig_to_new_stacked={
            "_mlp.gate_proj": ("_mlp.gate_up_proj", 0),
            "_mlp.up_proj": ("_mlp.gate_up_proj", 1),
        },
    )

    @classmethod
    @override
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """None: a picture leaves nothing in the text."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        require_budgets(vllm_config)  # again: much is decided after the hook has run
        config, quant_config = config_of(vllm_config), vllm_config.quant_config
        with self._mark_tower_model(vllm_config, "image"):
            self.vision = CogVLMVision(config, quant_config, prefix=maybe_prefix(prefix, "vision"))
        with self._mark_language_model(vllm_config):
            self.model = CogVLMModel(vllm_config, prefix=maybe_prefix(prefix, "model"))
            self.lm_head = ParallelLMHead(
                config.vocab_size, config.hidden_size, quant_config=quant_config, prefix=maybe_prefix(prefix, "lm_head")
            )
        self.logits_processor = LogitsProcessor(config.vocab_size)

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[MultiModalFeatureSpec]
    ) -> tuple[torch.Tensor, int]:
        """The rows of positions of a prompt, [3, tokens], and the delta of the tokens that follow it."""
        spans = [(feature.mm_position.offset, feature.mm_position.length) for feature in mm_features]
        rows, delta = positions_of(spans, len(input_tokens))
        return torch.tensor(rows), delta

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """The embeddings of pictures, [pictures, image tokens, width], from their `pixel_values`."""
        pixels = kwargs.get("pixel_values")
        return self.vision(pixels) if isinstance(pixels, torch.Tensor) else []

    @override
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Hidden states [tokens, width] from tokens or embeddings, and the rows of positions [3, tokens]."""
        return self.model(input_ids, positions, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """The logits over the vocabulary, [tokens, vocabulary]."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads the published tensors; returns the names of what was loaded."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)
