"""Answers questions about the plugin from inside vLLM, line by line: `python -m tests.engines.cogvlm.inside`."""

import io
import os
import sys
import tempfile
from functools import cache
from typing import Any

import msgspec
import torch
from PIL import Image
from torch import nn
from vllm.config import CompilationConfig, ModelConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.online.base import OnlineQuantizationConfig
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers import cached_tokenizer_from_config

from engines.cogvlm.hook import CogVLMHook, config_of
from engines.cogvlm.model import CogVLMForCausalLM, rotary_embedding
from engines.cogvlm.processor import CogVLMProcessor
from tests.engines.cogvlm.asking import (
    Home,
    Homes,
    Layers,
    Load,
    Process,
    Processed,
    Quantise,
    Question,
    Rotate,
    Settings,
    Start,
    Tables,
)


def main() -> None:
    """Answer until the input ends; what vLLM prints is kept from the answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(answer(msgspec.json.decode(line, type=Question))) + b"\n")


def answer(question: Question) -> Settings | Homes | Processed | Tables | Layers:
    """Answer one question."""
    match question:
        case Start():
            return start(question)
        case Load():
            return load(question)
        case Process():
            return process(question)
        case Rotate():
            return rotate(question)
        case Quantise():
            return quantise(question)


def start(question: Start) -> Settings:
    """Configure vLLM, which is when it refuses."""
    try:
        config = EngineArgs(model=question.model, **question.options).create_engine_config()
    except ValueError as error:
        return Settings(refusal=str(error))
    mode, graphs_here = config.compilation_config.mode.name, config.compilation_config.cudagraph_mode.name
    config.compilation_config = CompilationConfig(**question.options.get("compilation_config", {}))
    CogVLMHook.verify_and_update_config(config)
    graphs = config.compilation_config.cudagraph_mode.name
    return Settings(None, mode, graphs, graphs_here, config.model_config.max_model_len)


def load(question: Load) -> Homes:
    """Make the model without memory, and follow the names as its loader does."""
    made = model(configured(question.model))
    parameters = {name: tuple(parameter.shape) for name, parameter in made.named_parameters()}
    tensors = {}
    for name in question.names:
        # The loader's own way to a parameter has no public name.
        home = CogVLMForCausalLM.hf_to_vllm_mapper._map_name_with_shard(name)
        if home is not None and home[0] in parameters:
            tensors[name] = Home(home[0], parameters[home[0]], home[1] if isinstance(home[1], int) else None)
    return Homes(tensors, list(parameters))


def configured(folder: str, **options: Any) -> VllmConfig:
    """The configuration of a checkpoint that is nothing but one."""
    return EngineArgs(model=folder, skip_tokenizer_init=True, **options).create_engine_config()


def model(config: VllmConfig) -> nn.Module:
    """The model, of which nothing is allocated."""
    with set_current_vllm_config(config):
        join()
        with torch.device("meta"):
            module: nn.Module = initialize_model(config)
    return module


def quantise(question: Quantise) -> Layers:
    """Make the model, whose layers ask how they are to be quantised."""
    config = configured(question.model, **question.options)
    made = model(config)
    assert isinstance(config.quant_config, OnlineQuantizationConfig)
    linear = [name for name, module in made.named_modules() if isinstance(module, LinearBase)]
    return Layers(linear, list(config.quant_config.quantized_layers))


@cache
def join() -> None:
    """Be the only rank, which vLLM's layers ask about."""
    init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/meeting", backend="gloo")
    initialize_model_parallel()


def process(question: Process) -> Processed:
    """Put a picture into a prompt, as vLLM does with a request."""
    config: ModelConfig = EngineArgs(model=question.model, dtype="float32").create_model_config()
    processor = MULTIMODAL_REGISTRY.create_processor(config, tokenizer=cached_tokenizer_from_config(config))
    assert isinstance(processor, CogVLMProcessor)
    items = processor.info.parse_mm_data({"image": [Image.open(io.BytesIO(question.picture))]})
    made = processor(question.tokens, items)
    (place,) = made["mm_placeholders"]["image"]
    pixels = made["mm_kwargs"].get_data()["pixel_values"]
    assert isinstance(pixels, torch.Tensor)
    span = (place.offset, place.length)
    return Processed(list(made["prompt_token_ids"]), span, tuple(pixels.shape), pixels.flatten().tolist())


def rotate(question: Rotate) -> Tables:
    """Make the rotation and read its tables."""
    config = EngineArgs(model=question.model, **question.options).create_engine_config()
    with set_current_vllm_config(config):
        return Tables(rotary_embedding(config_of(config)).cos_sin_cache.tolist())


if __name__ == "__main__":
    main()
