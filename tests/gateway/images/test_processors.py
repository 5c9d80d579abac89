"""What models' own image processors do, held against what we take them to do.

The processors are those that the engines run, with the sizes that the published checkpoints have.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BlipImageProcessor, BlipImageProcessorPil, Gemma3ImageProcessor, GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from gateway.catalogue import models
from gateway.images import pixels
from gateway.images.header import Header, read
from gateway.images.plan import Size, Sizing, plan, seen
from tests.detail import photograph

from .made import saved

Array = np.ndarray[Any, np.dtype[Any]]
SIZINGS = {model.name: model.sizing for model in models({}, "nowhere")}
PICTURE = photograph((900, 700))

SQUARES: dict[str, Callable[[dict[str, int]], Any]] = {
    "blip-base": lambda size: BlipImageProcessorPil(size=size),
    "gemma-3-4b": lambda size: Gemma3ImageProcessor(size=size),
    "blip2-opt-2.7b": lambda size: BlipImageProcessor(size=size),
}


def square(side: int) -> dict[str, int]:
    """A size as processors want it."""
    return {"height": side, "width": side}


def levels(processor: Any, image: Any) -> Array:
    """What the processor makes of a picture before it becomes numbers around zero: (pictures, height, width, 3)."""
    made = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    return np.asarray(np.moveaxis(np.asarray(made), 1, -1)).astype(int)


@pytest.mark.parametrize("name", SQUARES)
@pytest.mark.parametrize("size", [(900, 700), (60, 40), (3, 90)], ids=str)
def test_square_models_find_nothing_to_do(name: str, size: Size) -> None:
    """The model's resize leaves our square as it is, and its own square would have been ours, but for a rounding."""
    sizing = SIZINGS[name]
    processor = SQUARES[name](square(sizing.side))
    image = PICTURE.resize(size)
    data = saved(image, "BMP")
    ours = pixels.render(data, "bmp", plan(read(data), sizing, "exact"))
    assert np.array_equal(levels(processor, ours)[0], np.asarray(ours))
    if min(size) > 3:  # a picture of three rows is taken for one of three colours
        assert np.abs(levels(processor, image)[0] - np.asarray(ours).astype(int)).max() <= 2


def test_tiling_models_find_nothing_to_do() -> None:
    """The tiles of our picture are cut from it as they are, and as many as from the picture itself."""
    processor = GotOcr2ImageProcessor(size=square(448), crop_to_patches=True, min_patches=1, max_patches=12)
    image = photograph((1500, 1000))
    data = saved(image, "BMP")
    ours = pixels.render(data, "bmp", plan(read(data), SIZINGS["internvl3-1b"], "exact"))
    tiles, usual = levels(processor, ours), levels(processor, image)
    assert ours.size == (1344, 896)
    assert tiles.shape == usual.shape == (7, 448, 448, 3)
    assert np.array_equal(tiles[0], np.asarray(ours)[:448, :448])
    assert np.abs(tiles[:6] - usual[:6]).max() <= 2
    assert np.abs(tiles[6] - usual[6]).mean() <= 0.6  # the thumbnail is made from the grid now
    assert np.percentile(np.abs(tiles[6] - usual[6]), 99) <= 3


SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(SIZES | st.builds(lambda side, across, down: (side * across, side * down), *[st.integers(1, 1200)] * 3),
       st.integers(1, 12))  # fmt: skip
def test_grids_are_chosen_as_the_processor_does(size: Size, tiles: int) -> None:
    """Whatever the shape, ties between grids of one shape included."""
    columns, rows = get_optimal_tiled_canvas(size[::-1], (448, 448), 1, tiles)
    assert seen(size, Sizing("tiles", 448, tiles=tiles)) == (448 * columns, 448 * rows)


@given(SIZES, st.sampled_from([(28, 1003520), (28, 12845056), (32, 16777216)]))
def test_multiples_are_chosen_as_the_processor_does(size: Size, limits: tuple[int, int]) -> None:
    """What a processor makes of our picture is what it makes of the picture itself."""
    step, most = limits
    if max(size) > 100 * min(size):
        return
    final = plan(Header("png", *size), Sizing("multiples", step, pixels=most), "fast").size

    def theirs(size: Size) -> Size:
        height, width = smart_resize(size[1], size[0], factor=step, min_pixels=56 * 56, max_pixels=most)
        return width, height

    if min(size) >= step:
        assert theirs(final) == theirs(size)
