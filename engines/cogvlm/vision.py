"""The tower and its adapter: a picture's pixels become the embeddings of its tokens."""

from math import isqrt
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import gelu, silu
from vllm.model_executor.layers.conv import Conv2dLayer
from vllm.model_executor.layers.linear import ColumnParallelLinear, LinearBase, ReplicatedLinear, RowParallelLinear
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.models.glm4v import EVA2CLIPPatchEmbedding, EVA2CLIPTransformer

from engines.cogvlm.config import CogVLMConfig


class CogVLMVision(nn.Module):
    """EVA2-CLIP-E as vLLM has it for GLM-4V, between ends of CogVLM's own: one generation has no convolution."""

    def __init__(self, config: CogVLMConfig, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        tower = config.vision_config
        sizes = SimpleNamespace(**tower.to_dict(), dropout_prob=0.0)
        self.patch_embedding = EVA2CLIPPatchEmbedding(sizes)
        self.transformer = EVA2CLIPTransformer(sizes, quant_config=quant_config, prefix=f"{prefix}.transformer")
        width = tower.hidden_size
        self.conv = Conv2dLayer(width, width, kernel_size=2, stride=2) if tower.downsample else None
        self.linear_proj = CogVLMAdapter(config, quant_config, prefix=f"{prefix}.linear_proj")
        self.boi = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.eoi = nn.Parameter(torch.empty(1, 1, config.hidden_size))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [pictures, 3, size, size], on any device, become embeddings [pictures, image tokens, width]."""
        patches = self.patch_embedding(pixels.to(self.boi.device))
        patches = self.transformer(patches)[:, 1:]  # without the class token
        if self.conv is not None:
            patches = downsampled(patches, self.conv)
        embeddings = self.linear_proj(patches)
        ends = (len(pixels), -1, -1)
        return torch.cat((self.boi.expand(ends), embeddings, self.eoi.expand(ends)), dim=1)


class CogVLMAdapter(nn.Module):
    """Brings patches to the language model's width.

    vLLM has its like for GLM-4V, with two matrices made one. Here they stay two: the experts' networks pack a matrix of
    the same name in another way, and loaders that quantise know only one way for each name.
    """

    def __init__(self, config: CogVLMConfig, quant_config: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size

        def linear(kind: type[LinearBase], name: str, inputs: int, outputs: int) -> LinearBase:
            layer = f"{prefix}.{name}"
            return kind(inputs, outputs, bias=False, quant_config=quant_config, prefix=layer, return_bias=False)

        self.linear_proj = linear(ReplicatedLinear, "linear_proj", config.vision_config.hidden_size, width)
        self.norm1 = nn.LayerNorm(width)
        self.gate_proj = linear(ColumnParallelLinear, "gate_proj", width, inner)
        self.dense_h_to_4h = linear(ColumnParallelLinear, "dense_h_to_4h", width, inner)
        self.dense_4h_to_h = linear(RowParallelLinear, "dense_4h_to_h", inner, width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches [pictures, patches, tower's width] become [pictures, patches, width]."""
        patches = gelu(self.norm1(self.linear_proj(patches)))
        return self.dense_4h_to_h(silu(self.gate_proj(patches)) * self.dense_h_to_4h(patches))


def downsampled(patches: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    """Patches [pictures, side * side, width], convolved as the grid that they are; each four become one."""
    pictures, count, width = patches.shape
    side = isqrt(count)
    grid = patches.transpose(1, 2).reshape(pictures, width, side, side)
    return conv(grid).flatten(2).transpose(1, 2)
