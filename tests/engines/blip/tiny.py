"""A BLIP checkpoint of a few thousand seeded random weights, in the layout of the published ones."""

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipTextConfig,
    BlipVisionConfig,
)

WORDS = [
    *("a", "an", "the", "there", "is", "photo", "of", "man", "woman", "dog", "cat", "arafed", "araffe", "on", "in"),
    *("with", "and", "red", "blue", "big", "small", "'", ".", ",", "s", "t", "n"),
]
PIECES = ["##s", "##ing", "##ed", "##er", "##ly"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
VOCABULARY = SPECIAL + WORDS + PIECES
SIDE = 32
PATCH = 8
POSITIONS = 48
IMAGE_TOKENS = (SIDE // PATCH) ** 2 + 1


def save(folder: Path) -> Path:
    """Write the checkpoint; how its weights are drawn makes its captions differ in words and length."""
    model = BlipForConditionalGeneration(_config())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
        bias = model.text_decoder.cls.predictions.decoder.bias
        bias[VOCABULARY.index("[SEP]")] += 2.0
        for token in ("[PAD]", "[UNK]", "[CLS]", "[MASK]", "[DEC]"):
            bias[VOCABULARY.index(token)] -= 100.0
    model.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    _tokenizer(folder).save_pretrained(folder)
    return folder


def picture(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """Draw coarse noise, different for every seed."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(values.numpy()).resize((width, height), Image.Resampling.NEAREST)


def _config() -> BlipConfig:
    text = BlipTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        encoder_hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        bos_token_id=VOCABULARY.index("[DEC]"),
        eos_token_id=VOCABULARY.index("[SEP]"),
        sep_token_id=VOCABULARY.index("[SEP]"),
        pad_token_id=VOCABULARY.index("[PAD]"),
    )
    vision = BlipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    return BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32)


def _tokenizer(folder: Path) -> BertTokenizer:
    return BertTokenizer(vocab={token: at for at, token in enumerate(VOCABULARY)}, bos_token="[DEC]")
