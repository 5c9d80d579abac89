"""What is planned for pictures, model by model."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.images.header import Format, Header
from gateway.images.plan import (
    AMPLE,
    MARGIN,
    MIN_SIDE,
    Plan,
    Resize,
    Rule,
    Size,
    Sizing,
    decoded_bytes,
    note,
    pipeline,
    plan,
    seen,
)

BLIP, GEMMA, COGVLM = Sizing("square", 384), Sizing("square", 896, "bilinear"), Sizing("square", 1344)
INTERNVL = Sizing("tiles", 448)
QWEN = Sizing("multiples", 28, pixels=1003520)
UNKNOWN = Sizing(None, 1024)
MODELS = (BLIP, GEMMA, COGVLM, INTERNVL, QWEN, UNKNOWN)
MODES: tuple[Resize, ...] = ("fast", "exact", "off")

SIZES = st.tuples(st.integers(1, 9000), st.integers(1, 9000))


def jpeg(size: Size, orientation: int = 1) -> Header:
    """The header of a JPEG that is stored in that size."""
    return Header("jpeg", *size, orientation=orientation)


@pytest.mark.parametrize(
    ("sizing", "size", "scale", "factor", "final"),
    [
        (BLIP, (4032, 3024), 4, 1, (384, 384)),
        (BLIP, (4000, 3000), 4, 1, (384, 384)),
        (BLIP, (12000, 9000), 8, 1, (384, 384)),
        (BLIP, (16000, 15000), 8, 2, (384, 384)),
        (BLIP, (640, 480), 1, 1, (384, 384)),
        (BLIP, (100, 9000), 1, 1, (384, 384)),
        (BLIP, (1, 1), 1, 1, (384, 384)),
        (GEMMA, (4032, 3024), 2, 1, (896, 896)),
        (GEMMA, (4000, 3000), 2, 1, (896, 896)),
        (COGVLM, (4032, 3024), 1, 1, (1344, 1344)),
        (INTERNVL, (4032, 3024), 1, 1, (1792, 1344)),
        (INTERNVL, (9000, 3000), 2, 1, (2688, 896)),
        (INTERNVL, (600, 600), 1, 1, (448, 448)),
        (INTERNVL, (700, 700), 1, 1, (700, 700)),
        (INTERNVL, (1000, 300), 1, 1, (1000, 300)),
        (QWEN, (4032, 3024), 2, 1, (1148, 840)),
        (QWEN, (1000, 700), 1, 1, (1000, 700)),
        (UNKNOWN, (4095, 4095), 1, 1, (4095, 4095)),
        (UNKNOWN, (4096, 4096), 2, 1, (2048, 2048)),
        (UNKNOWN, (6145, 9000), 2, 1, (3073, 4500)),
        (UNKNOWN, (20480, 30000), 8, 1, (2560, 3750)),
    ],
)
def test_jpegs(sizing: Sizing, size: Size, scale: int, factor: int, final: Size) -> None:
    """What is done to JPEGs, model by model: how small they are decoded, and what the engine gets."""
    assert plan(jpeg(size), sizing, "fast") == Plan(
        size, 1, final, scale, factor, sizing.filter if seen(size, sizing) == final else None
    )


def test_other_formats_are_decoded_in_full_and_averaged() -> None:
    """Only JPEGs can be decoded at a fraction; blocks are averaged down to twice what is wanted."""
    assert plan(Header("png", 4032, 3024), BLIP, "fast") == Plan((4032, 3024), 1, (384, 384), 1, 3, "bicubic")
    assert plan(Header("png", 6144, 9000), UNKNOWN, "fast") == Plan((6144, 9000), 1, (2048, 3000), 1, 3)


def test_exact_filters_every_pixel() -> None:
    """Nothing is averaged beside the filter, and JPEGs are decoded at a fraction only from twice the size on."""
    assert plan(Header("png", 4032, 3024), BLIP, "exact") == Plan((4032, 3024), 1, (384, 384), 1, 1, "bicubic")
    assert plan(jpeg((4032, 3024)), BLIP, "exact") == Plan((4032, 3024), 1, (384, 384), 2, 1, "bicubic")
    assert plan(jpeg((4032, 3024)), GEMMA, "exact") == Plan((4032, 3024), 1, (896, 896), 1, 1, "bilinear")


@pytest.mark.parametrize("sizing", MODELS, ids=str)
def test_off_leaves_the_size(sizing: Sizing) -> None:
    """But for what is too small for a model."""
    assert plan(jpeg((4032, 3024)), sizing, "off") == Plan((4032, 3024), 1, (4032, 3024))
    assert plan(jpeg((3, 2)), sizing, "off") == Plan((3, 2), 1, (48, 32))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_upright_picture(orientation: int) -> None:
    """A model chooses its grid for the picture as it is looked at."""
    stored = (4032, 3024) if orientation < 5 else (3024, 4032)
    planned = plan(jpeg(stored, orientation), INTERNVL, "fast")
    assert (planned.stored, planned.orientation, planned.size) == (stored, orientation, (1792, 1344))
    assert planned.unturned == ((1792, 1344) if orientation < 5 else (1344, 1792))


@pytest.mark.parametrize("kind", ["heic", "tiff"])
def test_some_decoders_turn_pictures_themselves(kind: Format) -> None:
    """Theirs are upright already, and are not turned twice."""
    planned = plan(Header(kind, 400, 300, orientation=6), UNKNOWN, "off")
    assert (planned.stored, planned.orientation, planned.size) == ((300, 400), 1, (300, 400))


@given(SIZES, st.sampled_from(MODELS), st.sampled_from(MODES), st.integers(1, 8), st.sampled_from(["jpeg", "png"]))
def test_no_model_sees_another_picture(
    size: Size, sizing: Sizing, mode: Resize, orientation: int, kind: Format
) -> None:
    """Whatever the picture: what the model makes of our result is what it would make of the picture itself.

    Nothing is decoded smaller than the margin above that, and no side is too small for anyone.
    """
    head = Header(kind, *size, orientation=orientation)
    planned = plan(head, sizing, mode)
    assert min(planned.size) >= MIN_SIDE
    if sizing.rule != "multiples" or min(size) >= MIN_SIDE:  # enlarged ones are still as small as they were
        assert seen(planned.size, sizing) in {seen(head.size, sizing), planned.size}
    if planned.size == seen(head.size, sizing) and planned.scale > 1:
        least = MARGIN if mode == "fast" else AMPLE
        assert all(old / planned.scale >= least * new for old, new in zip(head.size, planned.size, strict=True))
    if sizing.rule is None and mode != "off":
        assert all(new >= min(old, AMPLE * sizing.side) for old, new in zip(head.size, planned.size, strict=True))


@given(SIZES, st.sampled_from([INTERNVL, Sizing("tiles", 448, tiles=6)]))
def test_a_grid_holds_its_bounds(size: Size, sizing: Sizing) -> None:
    """At most so many tiles, and the grid of a grid is itself."""
    wanted = seen(size, sizing)
    assert wanted is not None
    assert 1 <= math.prod(wanted) // sizing.side**2 <= sizing.tiles
    assert seen(wanted, sizing) == wanted


@pytest.mark.parametrize("rule", ["square", "tiles", "multiples"])
def test_sizes_too_small_for_some_model_are_not_made(rule: Rule) -> None:
    """A model configured to see less than the smallest side gets the picture as it is."""
    assert plan(jpeg((640, 480)), Sizing(rule, 16, tiles=1, pixels=300), "fast").size == (640, 480)


def test_memory_follows_the_work() -> None:
    """What is decoded small costs little; several passes, transparency and the result cost more."""
    small, full = (decoded_bytes(jpeg((4032, 3024)), plan(jpeg((4032, 3024)), BLIP, mode)) for mode in ("fast", "off"))
    assert small < 15_000_000
    assert 150_000_000 < full < 250_000_000
    several = Header("jpeg", 4032, 3024, progressive=True)
    assert decoded_bytes(several, plan(several, BLIP, "fast")) - small == 8 * 4032 * 3024
    clear, opaque = (Header("png", 800, 600, alpha=alpha) for alpha in (True, False))
    assert decoded_bytes(clear, plan(clear, BLIP, "fast")) > decoded_bytes(opaque, plan(opaque, BLIP, "fast"))


def test_the_line_about_a_picture() -> None:
    """What came, which way up, what was made of it, and how."""
    turned = jpeg((4032, 3024), 6)
    assert note(turned, plan(turned, GEMMA, "fast"), "fast") == "4032x3024 jpeg exif=6 -> 896x896 fast"
    assert note(Header("png", 64, 48), plan(Header("png", 64, 48), UNKNOWN, "off"), "off") == "64x48 png -> 64x48 off"


def test_the_name_of_the_processing() -> None:
    """Another mode makes other pixels, and so other answers."""
    assert len({pipeline(mode) for mode in MODES}) == len(MODES)
