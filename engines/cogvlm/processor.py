"""How a picture becomes pixels, and where its tokens go in a prompt."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from typing_extensions import override
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptIndexTargets,
    PromptInsertion,
    PromptUpdate,
)

from engines.cogvlm.config import CogVLMConfig

MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)  # CLIP's
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


class CogVLMPictures:
    """Pictures as the authors prepare them: squashed to a square with Pillow's bicubic filter, then normalised."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> BatchFeature:
        """The `pixel_values` of pictures of any mode and size, float32 [pictures, 3, size, size]."""
        pixels = np.stack([self._pixels(image) for image in images])
        return BatchFeature({"pixel_values": torch.from_numpy(pixels)}, tensor_type=return_tensors)

    def _pixels(self, image: Image.Image) -> np.ndarray:
        square = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        normal = (np.asarray(square, np.float32) / 255 - MEAN) / DEVIATION
        return normal.transpose(2, 0, 1)


class CogVLMProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about pictures: one at most, and how many tokens it takes."""

    @override
    def get_hf_config(self) -> CogVLMConfig:
        """The checkpoint's configuration."""
        return self.ctx.get_hf_config(CogVLMConfig)

    @override
    def get_hf_processor(self, **kwargs: object) -> CogVLMPictures:  # type: ignore[override] # any callable will do
        """What makes pixels. It has nothing to be configured."""
        return CogVLMPictures(self.get_hf_config().vision_config.image_size)

    @override
    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """The model was made for one picture, at the beginning."""
        return {"image": 1}

    @override
    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Each picture takes as many, whatever its size."""
        return {"image": self.get_hf_config().image_tokens}


class CogVLMDummyInputs(BaseDummyInputsBuilder[CogVLMProcessingInfo]):
    """The request by which vLLM measures how much memory a picture takes."""

    @override
    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """No words: a picture has no place in the text, it goes behind the token that begins it."""
        return ""

    @override
    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        """As many white pictures as are asked for."""
        size = self.info.get_hf_config().vision_config.image_size
        return {"image": self._get_dummy_images(width=size, height=size, num_images=mm_counts.get("image", 0))}


class CogVLMProcessor(BaseMultiModalProcessor[CogVLMProcessingInfo]):
    """Puts a picture's tokens behind the first token of the prompt, whatever turn the picture came in."""

    @override
    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        # What vLLM finds whole in its prefix cache it sends to its workers without its fields, but for those that stay
        # on the CPU; and a request that is preempted may have to be computed without its prefix, from its pixels.
        return {"pixel_values": MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    @override
    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.get_hf_config()
        return [
            PromptInsertion(
                modality="image",
                target=PromptIndexTargets.prefix([config.bos_token_id]),
                insertion=[config.pad_token_id] * config.image_tokens,
            )
        ]
