"""What vLLM runs at the start of each of its processes, by the entry point `vllm.general_plugins`."""


def register() -> None:
    """Makes CogVLM known to vLLM; doing so twice changes nothing.

    Nothing heavy is imported by it: vLLM imports the model itself, in the process that runs it.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - vLLM imports this module before it knows whether it needs it
    from vllm import ModelRegistry  # noqa: PLC0415
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP  # noqa: PLC0415

    from engines.cogvlm.config import CogVLMConfig  # noqa: PLC0415
    from engines.cogvlm.hook import CogVLMHook  # noqa: PLC0415

    AutoConfig.register(CogVLMConfig.model_type, CogVLMConfig, exist_ok=True)
    ModelRegistry.register_model("CogVLMForCausalLM", "engines.cogvlm.model:CogVLMForCausalLM")
    # vLLM knows no public way to see a configuration before it is used; all its own models look at theirs like this.
    MODELS_CONFIG_MAP["CogVLMForCausalLM"] = CogVLMHook
