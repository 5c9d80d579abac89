"""How a picture becomes pixels and tokens, as vLLM does it with a request."""

import io
from math import prod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engines.cogvlm.asking import Inside

SIDE, TOKENS, BOS, IMAGE, TEXT = 56, 18, 1, 0, [5, 6, 0, 7]  # of the tiny CogVLM; a text may have the picture's token


def picture(mode: str, width: int, height: int) -> Image.Image:
    """A picture of noise, which shows any other way to make it smaller or larger."""
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


def published(image: Image.Image) -> np.ndarray:
    """The pixels that the authors' code makes, [3, side, side]: squashed with Pillow, then CLIP's normalisation."""
    square = np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return np.stack([(square[..., at] / 255 - mean[at]) / deviation[at] for at in range(3)])


@pytest.mark.parametrize(
    ("mode", "width", "height"),
    [("RGB", 56, 56), ("RGB", 301, 17), ("RGB", 1, 1), ("L", 40, 90), ("P", 64, 33), ("1", 20, 20), ("CMYK", 70, 30)],
)
def test_pixels_are_the_authors(inside: Inside, prepared: dict[str, Path], mode: str, width: int, height: int) -> None:
    """Whatever its size and mode, a picture is squashed and normalised as published; nothing is cropped."""
    image = picture(mode, width, height)
    file = io.BytesIO()
    image.save(file, "TIFF")

    made = inside.process(prepared["cogvlm"], [BOS, *TEXT], file.getvalue())

    assert made.shape == (1, 3, SIDE, SIDE)
    assert len(made.pixels) == prod(made.shape)
    np.testing.assert_allclose(np.reshape(made.pixels, made.shape)[0], published(image), rtol=0, atol=1e-6)


def test_a_pictures_tokens_come_behind_the_first(inside: Inside, prepared: dict[str, Path]) -> None:
    """There are as many as the configuration says, and the text's own are where they were."""
    file = io.BytesIO()
    picture("RGB", 30, 40).save(file, "PNG")

    made = inside.process(prepared["cogvlm"], [BOS, *TEXT], file.getvalue())

    assert made.tokens == [BOS, *[IMAGE] * TOKENS, *TEXT]
    assert made.span == (1, TOKENS)
