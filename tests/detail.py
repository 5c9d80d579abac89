"""Pictures with the detail of photographs: noise of every size, the larger the stronger, under sharp lines and shapes.

Without it every way to shrink a picture looks alike.
"""

import numpy as np
from PIL import Image, ImageDraw

NOISE = 1.6  # standard deviation, in levels, of the finest grain; it grows with the root of the grain's size
SHAPES_EVERY = 40_000  # pixels


def photograph(size: tuple[int, int], seed: int = 1) -> Image.Image:
    """An RGB picture of the size (width, height), the same for the same seed."""
    chance = np.random.default_rng(seed)
    image = Image.fromarray((128 + _noise(size, chance)).clip(0, 255).astype("uint8"))
    draw = ImageDraw.Draw(image)
    for _ in range(size[0] * size[1] // SHAPES_EVERY):
        _add_shape(draw, size, chance)
    return image


def _noise(size: tuple[int, int], chance: np.random.Generator) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    sum_ = np.zeros((size[1], size[0], 3), np.float32)
    grain = 2
    while grain < max(size):
        shape = (size[1] // grain + 3, size[0] // grain + 3, 3)
        noise = chance.normal(size=shape).astype(np.float32) * NOISE * grain**0.5
        for band in range(3):
            sum_[..., band] += np.asarray(Image.fromarray(noise[..., band]).resize(size, Image.Resampling.BICUBIC))
        grain *= 2
    return sum_


def _add_shape(draw: ImageDraw.ImageDraw, size: tuple[int, int], chance: np.random.Generator) -> None:
    x, y = int(chance.integers(0, size[0])), int(chance.integers(0, size[1]))
    extent, width = int(chance.integers(4, max(5, size[0] // 12))), int(chance.integers(1, 6))
    red, green, blue = (int(level) for level in chance.integers(0, 256, 3))
    match int(chance.integers(0, 3)):
        case 0:
            draw.ellipse([x, y, x + extent, y + extent], outline=(red, green, blue), width=width)
        case 1:
            draw.line([x, y, x + extent - 2 * int(chance.integers(0, extent)), y + extent], (red, green, blue), width)
        case _:
            side = min(extent, size[0] // 30)
            draw.rectangle([x, y, x + side, y + side], (red, green, blue))
