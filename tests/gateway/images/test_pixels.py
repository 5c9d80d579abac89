"""What engines get to see, whatever the picture was before."""

import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from gateway.images import header, pixels
from gateway.images.plan import Filter, Resize, Sizing, plan
from tests.detail import photograph

from .conftest import MakePng
from .made import animated, exif, saved

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)
UNKNOWN = Sizing(None, 1024)


def shown(data: bytes, sizing: Sizing = UNKNOWN, resize: Resize = "off") -> Image.Image:
    """The picture as an engine gets it."""
    head = header.read(data)
    planned = plan(head, sizing, resize)
    image = pixels.render(data, head.format, planned)
    assert (image.mode, image.size) == ("RGB", planned.size)
    return image


def row_of(image: Image.Image) -> list[Any]:
    """The colours of the first row of a tiny picture, whose pixels have become blocks."""
    block = image.height
    return [image.getpixel((x, 0)) for x in range(0, image.width, block)]


def scene(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A picture that looks different from all eight sides: a corner is red, the one beside it blue."""
    image = Image.new("RGB", size, WHITE)
    image.paste(RED, (0, 0, size[0] // 2, size[1] // 2))
    image.paste(BLUE, (size[0] // 2, 0, size[0], size[1] // 2))
    return image


def difference(one: Image.Image, other: Image.Image) -> "np.ndarray[Any, np.dtype[Any]]":
    """By how many levels every sample differs."""
    assert one.size == other.size
    return np.asarray(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)))


# --- orientation ----------------------------------------------------------------------------------------------------

# How a camera stores an upright picture under each orientation: the inverse of what EXIF says a viewer has to do.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "PNG": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIC": {"quality": 100, "chroma": 444},
    "TIFF": {},
}


def stored(image: Image.Image, kind: str, orientation: int) -> bytes:
    """The picture as a camera stores it that was held so."""
    turn = STORED[orientation]
    block: Any = exif(orientation)
    if kind == "TIFF":  # whose orientation is a tag of its own
        block = Image.Exif()
        block[0x0112] = orientation
    return saved(image if turn is None else image.transpose(turn), kind, exif=block, **LOSSLESS[kind])


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    """All eight orientations, in all formats that carry one, show the same scene."""
    assert difference(shown(stored(scene(), kind, orientation)), scene()).max() <= 2


SMALL = photograph((480, 360))


@pytest.mark.parametrize("resize", ["fast", "exact"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_holds_for_shrunk_jpegs(orientation: int, resize: Resize) -> None:
    """A picture is the same however it was stored, squashed or not, decoded at a fraction of its size or not."""
    for sizing in (Sizing("square", 60), Sizing("tiles", 100, tiles=6)):
        upright = shown(saved(SMALL, "BMP"), sizing, resize)
        turned = difference(shown(stored(SMALL, "JPEG", orientation), sizing, resize), upright)
        assert turned.mean() < 0.6
        assert np.percentile(turned, 99) <= 3


@pytest.mark.parametrize("block", [exif(0), exif(9), exif(65535), b"Exif\0\0MM\0*", b"Exif\0\0" + bytes(60), b"x"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_broken_exif_is_no_error(kind: str, block: bytes) -> None:
    """A picture whose tags make no sense is shown as it is stored."""
    assert shown(saved(scene(), kind, exif=block)).size == (48, 32)


def test_a_looping_exif_is_no_error() -> None:
    """A directory that leads back to itself is read once."""
    loop = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIII", 0x8769, 4, 1, 8, 8)
    assert shown(saved(scene(), "JPEG", exif=loop)).size == (48, 32)


# --- depth and transparency -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "row"), [(1, b"\x50"), (2, b"\x1b"), (4, b"\x05\xaf")])
def test_few_bits_are_scaled(make_png: MakePng, depth: int, row: bytes) -> None:
    """1, 2 and 4 bits of grey reach from black to white."""
    values = {1: (0, 255, 0, 255), 2: (0, 85, 170, 255), 4: (0, 85, 170, 255)}[depth]
    image = shown(make_png((4, 1), depth=depth, color=0, rows=[row]))
    assert row_of(image) == [(value,) * 3 for value in values]


def test_alpha_is_laid_over_white() -> None:
    """Transparent is white whatever colour hides in it, half-transparent is half white; the rest stays."""
    rgba = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        rgba.putpixel((x, 0), (0, 0, 200, alpha))
    image = shown(saved(rgba, "PNG"))
    assert row_of(image) == [WHITE, (127, 127, 227), (0, 0, 200)]
    assert difference(shown(saved(rgba, "WEBP", lossless=True, exact=True)), image).max() <= 1
    assert row_of(shown(saved(Image.new("RGBA", (2, 1), (9, 9, 9, 0)), "AVIF"))) == [WHITE, WHITE]


def test_grey_alpha_is_laid_over_white() -> None:
    """The same for grey with alpha."""
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (40, 255))
    assert row_of(shown(saved(image, "PNG"))) == [WHITE, (40, 40, 40)]


def test_transparent_palettes_are_laid_over_white() -> None:
    """A palette's transparent entry, whether all or part of it, and a GIF's."""
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    for x in range(3):
        image.putpixel((x, 0), x)
    for kind in ("PNG", "GIF"):
        assert row_of(shown(saved(image, kind, transparency=1))) == [BLACK, WHITE, BLUE]
    partly = shown(saved(image, "PNG", transparency=bytes([255, 0, 128])))
    assert row_of(partly) == [BLACK, WHITE, (127, 127, 255)]
    assert row_of(shown(saved(image, "PNG"))) == [BLACK, RED, BLUE]


@pytest.mark.parametrize(
    ("head", "row", "key", "levels"),
    [
        ((1, 0), b"\x50", (0,), (255, 255, 255, 255)),
        ((1, 0), b"\x50", (1,), (0, 255, 0, 255)),
        ((2, 0), b"\x1b", (1,), (0, 255, 170, 255)),
        ((4, 0), b"\x05\xaf", (10,), (0, 85, 255, 255)),
        ((8, 0), b"\0\x40\x80\xc0", (0x40,), (0, 255, 128, 192)),
        ((16, 0), struct.pack(">4H", 0, 0x4040, 0x4041, 0xC0C0), (0x4040,), (0, 255, 64, 192)),
        ((8, 2), b"\0\0\0@@@\x80\x80\x80\xc0\xc0\xc0", (0x40,) * 3, (0, 255, 128, 192)),
        ((16, 2), struct.pack(">12H", *[v for v in (0, 0x4040, 0x8080, 0xC0C0) for _ in "rgb"]), (0x4040,) * 3,
         (0, 255, 128, 192)),
    ],
)  # fmt: skip
def test_a_transparent_colour_is_white(
    make_png: MakePng, head: tuple[int, int], row: bytes, key: tuple[int, ...], levels: tuple[int, ...]
) -> None:
    """PNG's single transparent colour is meant at the file's own depth, and other colours stay."""
    transparency = (b"tRNS", struct.pack(f">{len(key)}H", *key))
    image = shown(make_png((4, 1), depth=head[0], color=head[1], rows=[row], chunks=[transparency]))
    assert row_of(image) == [(level,) * 3 for level in levels]


# --- frames, containers, metadata -----------------------------------------------------------------------------------


def test_what_a_frame_leaves_uncovered_is_white() -> None:
    """A GIF's first frame may be smaller than its screen, and lie anywhere on it."""
    frame = Image.new("P", (40, 40), 0)
    frame.putpalette([*RED, *BLUE])
    frame.paste(1, (10, 10, 30, 30))
    data = bytearray(saved(frame, "GIF"))
    at = data.index(b",\0\0\0\0")
    data[6:10], data[at + 1 : at + 5] = struct.pack("<HH", 64, 64), struct.pack("<HH", 16, 20)
    image = shown(bytes(data))
    points = {(0, 0): WHITE, (15, 30): WHITE, (56, 30): WHITE, (30, 60): WHITE, (16, 20): RED, (36, 40): BLUE}
    assert {point: image.getpixel(point) for point in points} == points


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_range_are_refused(mode: str) -> None:
    """Nobody knows what is white in a TIFF of floating-point numbers: none comes out black."""
    pixels.prepare(["tiff"])
    with pytest.raises(ValueError, match="range"):
        shown(saved(Image.new(mode, (40, 40), 1), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_the_first_frame_is_shown(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an animation the first frame is decoded, and nobody looks for another."""
    data = animated(kind)
    for plugin in ("Gif", "Png", "WebP", "Avif"):
        parser = getattr(sys.modules[f"PIL.{plugin}ImagePlugin"], f"{plugin}ImageFile")
        monkeypatch.setattr(parser, "seek", first_only(parser.seek))
    red = shown(data).getpixel((4, 4))
    assert isinstance(red, tuple)
    assert red[0] > 250
    assert max(red[1:]) < 5


def test_a_sequence_without_a_primary_picture_shows_how_it_begins() -> None:
    """Some programs make such AVIFs, of tracks alone; one that is no sequence has to name its picture."""
    data = animated("AVIF").replace(b"pitm", b"free")
    red = shown(data).getpixel((4, 4))
    assert isinstance(red, tuple)
    assert red[0] > 250
    with pytest.raises(header.HeaderError):
        header.read(data.replace(b"ftypavis", b"ftypavif"))


def first_only(seek: Callable[[Image.Image, int], None]) -> Callable[[Image.Image, int], None]:
    """A decoder's way to look for a frame, for the first one alone."""

    def checked(image: Image.Image, frame: int) -> None:
        assert frame == 0, f"frame {frame} was looked for"
        seek(image, frame)

    return checked


def test_of_several_pictures_the_first_is_shown() -> None:
    """A camera's file of two pictures (MPO) is a JPEG with another behind it."""
    data = saved(scene(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))], quality=100, subsampling=0)
    assert difference(shown(data), scene()).mean() < 2


def test_one_picture_is_one_picture_in_every_lossless_format() -> None:
    """The engine's input does not depend on the container."""
    results = {shown(data).tobytes() for data in (
        saved(scene(), "PNG"), saved(scene(), "WEBP", lossless=True), saved(scene().quantize(4), "GIF"),
        saved(scene(), "TIFF"), saved(scene(), "BMP"),
    )}  # fmt: skip
    assert len(results) == 1


def test_metadata_is_gone() -> None:
    """Neither place nor profile nor comment stays with the pixels."""
    data = saved(scene(), "PNG", exif=exif(1), dpi=(300, 300))
    assert shown(data).info == {}


def test_two_parsers_must_agree() -> None:
    """A file of which Pillow reads another size than we did is not decoded: the budget was for ours."""
    data = saved(scene(), "PNG")
    planned = plan(header.read(saved(scene((64, 64)), "PNG")), UNKNOWN, "off")
    with pytest.raises(ValueError, match="different sizes"):
        pixels.render(data, "png", planned)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.sampled_from(
        [Sizing("square", 40), Sizing("tiles", 33, tiles=6), Sizing("multiples", 14, pixels=1500), Sizing(None, 34)]
    ),
    st.sampled_from(["fast", "exact", "off"]),
    st.sampled_from([1, 6]),
)
def test_sizes_come_out_as_planned(kind: str, size: tuple[int, int], sizing: Sizing, resize: Resize, turn: int) -> None:
    """Whatever the picture, the model and the mode: memory for the result is made by the plan."""
    block = {} if kind == "GIF" else {"exif": exif(turn)}
    data = saved(Image.new("L", size, 200), kind, **block)
    assert shown(data, sizing, resize).size == plan(header.read(data), sizing, resize).size


def test_jpegs_are_decoded_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG is never decoded larger than it needs to be."""
    decoded: list[tuple[int, int]] = []
    load = pixels.load_first_frame

    def noting(image: Image.Image) -> Image.Image:
        decoded.append(load(image).size)
        return image

    monkeypatch.setattr(pixels, "load_first_frame", noting)
    data = saved(Image.new("L", (1601, 1200)), "JPEG")
    for sizing, resize in product((Sizing("square", 90), Sizing("square", 140)), ("fast", "exact", "off")):
        shown(data, sizing, resize)  # type: ignore[arg-type] # they are the modes
    assert decoded == [(201, 150), (401, 300), (1601, 1200), (401, 300), (401, 300), (1601, 1200)]


DETAILED = {kind: saved(photograph((1500, 1125)), kind, quality=88) for kind in ("JPEG", "BMP")}


@pytest.mark.parametrize("kind", DETAILED)
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [84, 96, 160, 224, 337, 384, 620])
def test_shrinking_keeps_what_a_square_model_sees(kind: str, filter_: Filter, side: int) -> None:
    """Against decoding in full and then the model's filter: a mean of 0.6 levels at most, and 3 in all but a hundredth.

    Exact shrinking changes even less, and nothing at all but in JPEGs.
    """
    data = DETAILED[kind]
    usual = shown(data).resize((side, side), Image.Resampling[filter_.upper()])
    exact = (0.4, 2) if kind == "JPEG" else (0, 0)
    for resize, (mean, most) in (("fast", (0.6, 3)), ("exact", exact)):
        got = shown(data, Sizing("square", side, filter_), resize)  # type: ignore[arg-type] # they are the modes
        changed = difference(got, usual)
        assert changed.mean() <= mean, resize
        assert np.percentile(changed, 99) <= most, resize


@pytest.mark.parametrize("kind", DETAILED)
@pytest.mark.parametrize("sizing", [Sizing("tiles", 100, tiles=12), Sizing("multiples", 28, pixels=250_000)], ids=str)
def test_shrinking_keeps_what_other_models_see(kind: str, sizing: Sizing) -> None:
    """The same bounds where a model keeps a picture's shape; its thumbnail of a grid too."""
    data = DETAILED[kind]
    final = shown(data, sizing, "fast").size
    for size in (final, (100, 100)):
        usual = shown(data).resize(size, Image.Resampling.BICUBIC)
        changed = difference(shown(data, sizing, "fast").resize(size, Image.Resampling.BICUBIC), usual)
        assert changed.mean() <= 0.6
        assert np.percentile(changed, 99) <= 3


def test_tiny_pictures_keep_their_pixels() -> None:
    """What is too small for a model becomes larger, block by block, and changes in nothing else."""
    image = shown(saved(scene((3, 2)), "PNG"))
    assert image.size == (48, 32)
    assert not ImageChops.difference(image, scene((3, 2)).resize((48, 32), Image.Resampling.NEAREST)).getbbox()
    assert max(ImageStat.Stat(shown(saved(Image.new("L", (1, 1), 90), "PNG"), Sizing("square", 96), "fast")).mean) == 90


# --- decoders -------------------------------------------------------------------------------------------------------


def test_a_missing_decoder_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC needs a package that is not installed with Altgate; whoever enables it is told which."""
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(pixels.MissingDecoder, match=r"'heic' .* Install altgate\[heic\]"):
        pixels.prepare(["jpeg", "heic"])


def test_nothing_is_imported_once_the_decoders_are() -> None:
    """A worker that may open no file any more can decode whatever comes; and HEIC's decoder is not touched."""
    picture = Image.new("RGB", (64, 64), "red")
    tags = Image.Exif()
    tags[0x0112], tags[0x8769] = 6, {0x9003: "2026:01:01 00:00:00"}
    files = [saved(picture, kind, exif=tags) for kind in ("AVIF", "JPEG", "PNG", "WEBP")]
    files += [saved(picture.quantize(4), kind, transparency=1) for kind in ("PNG", "GIF")]
    files += [saved(picture.convert("CMYK"), "JPEG"), saved(Image.new("I;16", (9, 9)), "PNG")]
    done = subprocess.run(
        [sys.executable, "-c", LATE_IMPORTS, *(data.hex() for data in files)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


LATE_IMPORTS = """
import sys
from gateway.images import encode, header, pixels
from gateway.images.plan import Sizing, plan
pixels.prepare(["jpeg", "png", "webp", "gif", "avif"])
known = set(sys.modules)
for data in map(bytes.fromhex, sys.argv[1:]):
    head = header.read(data)
    image = pixels.render(data, head.format, plan(head, Sizing("square", 2048), "fast"))
    list(encode.pieces(image, "png"))
print(sorted(set(sys.modules) - known))
"""
