"""The configuration of a prepared checkpoint, of either generation: it says everything, so nothing here is a rule."""

from typing import Any, Final, Literal, get_args

from transformers import PreTrainedConfig

Tables = Literal["float32", "bfloat16"]
TABLES: Final[tuple[str, ...]] = get_args(Tables)


class CogVLMVisionConfig(PreTrainedConfig):
    """The tower, EVA2-CLIP-E. `num_positions` counts the patches and the class token; `image_size` is in pixels.

    `downsample` says that a convolution makes one patch of each two by two.
    """

    model_type = "cogvlm_vision"
    has_no_defaults_at_init = True

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_heads: int
    num_positions: int
    patch_size: int
    image_size: int
    downsample: bool
    in_channels: int = 3
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu"


class CogVLMConfig(PreTrainedConfig):
    """The language model and its tower.

    `image_tokens` is what a picture takes of a prompt; since all but three of them, the two around the patches and one
    patch, take no position of their own, `max_position_embeddings` is greater by `image_tokens - 3` than what the
    authors publish. `vision_qkv_bias` is of the vision expert alone.

    `rope_tables` is the precision in which rotary angles are computed. The authors run, and have trained, with
    "bfloat16", in which positions above 256 are not distinct any more; LMDeploy and vLLM's own kernels use "float32". A
    short caption's positions are below 100, because all patches share one; the two differ by up to 0.17 rad at the
    positions up to 50, by up to 0.33 (CogVLM) or 0.39 (CogVLM2) below 100, and by ever more after that.
    Only the real weights can tell which is better; `--hf-overrides '{"rope_tables": "bfloat16"}'` chooses the authors'.
    """

    model_type = "cogvlm"
    has_no_defaults_at_init = True
    sub_configs = {"vision_config": CogVLMVisionConfig}  # noqa: RUF012 - as all configurations of Transformers have it

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope_theta: float
    vision_qkv_bias: bool
    image_tokens: int
    bos_token_id: int
    eos_token_id: int | list[int]
    pad_token_id: int
    vision_config: CogVLMVisionConfig
    hidden_act: str = "silu"
    rope_tables: Tables = "float32"
    tie_word_embeddings: bool = False

    def __post_init__(self, **others: Any) -> None:
        """Reads the tower's part, which a file gives as a mapping."""
        if isinstance(self.vision_config, dict):
            self.vision_config = CogVLMVisionConfig(**self.vision_config)
        super().__post_init__(**others)  # type: ignore[no-untyped-call]

    @property
    def head_dim(self) -> int:
        """The width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def mrope_section(self) -> list[int]:
        """By this vLLM knows to carry several rows of positions; the rotation itself uses the first one alone."""
        return [self.head_dim // 2, 0, 0]
