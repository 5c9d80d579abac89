"""What vLLM's configuration must be for CogVLM, checked and completed before anything is loaded."""

from typing import cast

from vllm.config import CompilationMode, CUDAGraphMode, VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from engines.cogvlm.budgets import Budgets, refusal
from engines.cogvlm.config import TABLES, CogVLMConfig


class CogVLMHook(VerifyAndUpdateConfig):
    """Run by vLLM when its configuration is complete but for its defaults."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse what would be wrong, and choose how to compile where the operator has not.

        Raises `ValueError`, which ends the start; its message begins with `cogvlm: `.
        """
        require_budgets(vllm_config)
        _require_tables(config_of(vllm_config))
        _choose_compilation(vllm_config)


def config_of(vllm_config: VllmConfig) -> CogVLMConfig:
    """The checkpoint's own configuration."""
    return cast("CogVLMConfig", vllm_config.model_config.hf_config)


def require_budgets(vllm_config: VllmConfig) -> None:
    """Raises `ValueError` where a step could compute a picture's patch as if it were text, or no picture fits."""
    scheduler = vllm_config.scheduler_config
    budgets = Budgets(
        max_num_batched_tokens=scheduler.max_num_scheduled_tokens or scheduler.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs,
        long_prefill_token_threshold=scheduler.long_prefill_token_threshold,
        max_model_len=vllm_config.model_config.max_model_len,
        speculative=vllm_config.speculative_config is not None,
        scheduling_policy=scheduler.policy,
    )
    if sentence := refusal(budgets, config_of(vllm_config).image_tokens):
        raise ValueError(f"cogvlm: {sentence}")


def _require_tables(config: CogVLMConfig) -> None:
    if config.rope_tables not in TABLES:
        raise ValueError(f"cogvlm: `rope_tables` must be one of {', '.join(TABLES)}")


def _choose_compilation(vllm_config: VllmConfig) -> None:
    """Which expert computes a token is decided in each step: only decoding, which has one expert, can be a graph.

    Without compilation vLLM uses its own kernels for norms, activations and rotations. With it they would run as plain
    PyTorch, which nothing compiles here.
    """
    chosen = vllm_config.compilation_config
    if chosen.mode is None:
        chosen.mode = CompilationMode.NONE
    if chosen.cudagraph_mode is None:
        chosen.cudagraph_mode = CUDAGraphMode.FULL_DECODE_ONLY
    if chosen.mode != CompilationMode.NONE:
        raise ValueError("cogvlm: CogVLM cannot be compiled; leave `mode` out of `compilation-config`, or set it to 0")
    if chosen.cudagraph_mode not in {CUDAGraphMode.NONE, CUDAGraphMode.FULL_DECODE_ONLY}:
        raise ValueError(
            "cogvlm: CogVLM can be captured in graphs for decoding alone; leave `cudagraph_mode` out of "
            "`compilation-config`, or set it to FULL_DECODE_ONLY or NONE"
        )
