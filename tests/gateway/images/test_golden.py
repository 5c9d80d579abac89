"""Colours as an independent reference has them, two levels of 255 at most apart.

The reference is `colour`, written from the standards; the pictures are made here byte by byte where their form matters.
"""

import struct
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.images import header, pixels
from gateway.images.plan import Sizing, plan

from . import colour, made
from .conftest import MakePng

Array = np.ndarray[Any, np.dtype[Any]]

TOLERANCE = 2  # levels
PATCH = 16  # pixels: whole blocks of a JPEG, its chroma included


def shown(data: bytes) -> Array:
    """The picture as an engine gets it, unshrunk: (height, width, 3)."""
    head = header.read(data)
    image = pixels.render(data, head.format, plan(head, Sizing(None, 1024), "off"))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def is_near(got: Array, expected: Array) -> bool:
    """Whether every level of every pixel is as expected, within the tolerance."""
    return got.shape == expected.shape and bool(np.abs(got - expected).max() <= TOLERANCE)


def levels(colours: Array) -> Array:
    """Colours from 0 to 1 in levels of 255."""
    return np.asarray(np.rint(colours * 255)).astype(int)


# --- depth and transparency of PNGs ---------------------------------------------------------------------------------

SIDE = 64


def samples(channels: int) -> Array:
    """Samples from 0 to 1, (SIDE, SIDE, channels): a ramp one way, then others that tell the channels apart."""
    across, down = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    return np.stack([across, down, 1 - across, (across + down) / 2][:channels], axis=-1)


def over_white(colours: Array, alpha: Array) -> Array:
    """Colours laid on white."""
    return colours * alpha + 1 - alpha


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    ("kind", "channels", "expected"),
    [
        (0, 1, lambda v: v.repeat(3, axis=-1)),
        (2, 3, lambda v: v),
        (4, 2, lambda v: over_white(v[..., :1].repeat(3, axis=-1), v[..., 1:])),
        (6, 4, lambda v: over_white(v[..., :3], v[..., 3:])),
    ],
)
def test_pngs(make_png: MakePng, depth: int, kind: int, channels: int, expected: Any) -> None:
    """Grey and colours, with transparency and without, of 8 and 16 bits."""
    most = 2**depth - 1
    values = np.rint(samples(channels) * most)
    raw = values.astype(f">u{depth // 8}").reshape(SIDE, -1)
    data = make_png((SIDE, SIDE), depth=depth, color=kind, rows=[row.tobytes() for row in raw])
    assert is_near(shown(data), levels(expected(values / most)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_few_bits(make_png: MakePng, depth: int) -> None:
    """Grey of 1, 2, 4 and 8 bits reaches from black to white, and palettes of as many show their colours."""
    most = 2**depth - 1
    indices = np.rint(samples(1)[..., 0] * most).astype(np.uint8)
    bits = np.unpackbits(indices[..., None], axis=-1)[..., -depth:].reshape(SIDE, -1)
    rows = [row.tobytes() for row in np.packbits(bits, axis=-1)]
    palette = np.array([(7 * at % 256, -16 * at % 256, 16 * at % 256) for at in range(most + 1)], np.uint8)
    alpha = np.linspace(0, 255, most + 1).astype(np.uint8)

    grey = make_png((SIDE, SIDE), depth=depth, color=0, rows=rows)
    chunks = [(b"PLTE", palette.tobytes())]
    plain = make_png((SIDE, SIDE), depth=depth, color=3, rows=rows, chunks=chunks)
    clear = make_png((SIDE, SIDE), depth=depth, color=3, rows=rows, chunks=[*chunks, (b"tRNS", alpha.tobytes())])

    assert is_near(shown(grey), levels((indices / most)[..., None].repeat(3, axis=-1)))
    assert is_near(shown(plain), palette[indices].astype(int))
    assert is_near(shown(clear), levels(over_white(palette[indices] / 255, (alpha[indices] / 255)[..., None])))


def test_a_deep_ramp_keeps_its_mean(make_png: MakePng) -> None:
    """16-bit grey from black to white has a mean of 127, and is not white."""
    row = np.linspace(0, 65535, 256).round().astype(">u2").tobytes()
    assert abs(shown(make_png((256, 4), depth=16, color=0, rows=[row] * 4)).mean() - 127.5) < 1


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 0), (0, 255, 0)])
def test_hidden_colours_do_not_show_when_a_picture_shrinks(make_png: MakePng, hidden: tuple[int, int, int]) -> None:
    """What lies under full transparency bleeds into no neighbour: a grey square on nothing is grey on white."""
    values = np.full((256, 256, 4), (*hidden, 0), np.uint8)
    values[64:192, 64:192] = (90, 90, 90, 255)
    data = make_png((256, 256), depth=8, color=6, rows=[row.tobytes() for row in values])
    page = Image.new("L", (256, 256), 255)
    page.paste(90, (64, 64, 192, 192))
    head = header.read(data)
    for mode in ("fast", "exact"):
        image = pixels.render(data, "png", plan(head, Sizing("square", 50), mode))
        got = np.asarray(image).astype(int)
        assert np.ptp(got, axis=-1).max() <= 1
        expected = np.asarray(page.resize(image.size, Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(got[..., 0] - expected).mean() < 0.6


# --- grey of TIFFs --------------------------------------------------------------------------------------------------


def grey_tiff(values: Array, bits: int, *, white_is_zero: bool) -> bytes:
    """A TIFF of those values, from 0 to 2**bits - 1 where that is white, or black."""
    height, width = values.shape
    stored = 2**bits - 1 - values if white_is_zero else values
    if bits == 16:
        data = stored.astype("<u2").tobytes()
    else:
        digits = (stored[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        data = np.packbits(digits.astype(np.uint8).reshape(height, -1), axis=-1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: height}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags.items(), (279, len(data))]]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_scans_are_no_negatives(bits: int, white_is_zero: bool) -> None:
    """A ramp from black to white is one, whichever of the two is zero, and however many bits it has."""
    pixels.prepare(["tiff"])
    values = np.rint(samples(1)[..., 0] * (2**bits - 1)).astype(int)
    data = grey_tiff(values, bits, white_is_zero=white_is_zero)
    if (bits, white_is_zero) == (12, True):
        with pytest.raises(SyntaxError):  # which Pillow does not read
            shown(data)
    else:
        assert is_near(shown(data), levels((values / (2**bits - 1))[..., None].repeat(3, axis=-1)))


# --- profiles -------------------------------------------------------------------------------------------------------

CUBE = np.array(list(product(range(0, 256, 15), repeat=3))).reshape(72, 81, 3) / 255


def with_profile(profile: bytes | None, colours: Array = CUBE) -> bytes:
    """The colours as a lossless picture with the profile."""
    target = BytesIO()
    Image.fromarray(levels(colours).astype(np.uint8)).save(target, "WEBP", lossless=True, icc_profile=profile)
    return target.getvalue()


@pytest.mark.parametrize("space", ["DISPLAY_P3", "PROPHOTO", "ADOBE_RGB", "LINEAR"])
def test_profiles_are_brought_to_srgb(space: str) -> None:
    """Wide spaces, and narrow ones with another curve, show the colours that they mean."""
    meant: colour.Space = getattr(colour, space)
    assert is_near(shown(with_profile(colour.matrix_profile(meant))), levels(colour.in_srgb(CUBE, meant)))


def test_a_profile_that_changes_nothing_is_left_out() -> None:
    """sRGB by any name, or within what nobody sees: the levels stay what they were, all of them."""
    for space in (colour.SRGB, colour.DIMMER):
        assert np.array_equal(shown(with_profile(colour.matrix_profile(space))), levels(CUBE))


@pytest.mark.parametrize(
    "profile",
    [
        colour.matrix_profile(colour.PROPHOTO)[:300],
        colour.matrix_profile(colour.PROPHOTO, kind=b"link"),
        colour.matrix_profile(colour.PROPHOTO).replace(b"acsp", b"pcsa"),
        colour.matrix_profile(colour.PROPHOTO).replace(b"rXYZ", b"zzzz"),
        colour.matrix_profile(colour.PROPHOTO) + bytes(4 * 2**20),
        colour.ink_profile(),
        b"x",
        bytes(200),
    ],
    ids=["cut off", "wrong class", "no signature", "no matrix", "too large", "for inks", "one byte", "zeros"],
)
def test_profiles_that_cannot_be_used_are_ignored(profile: bytes) -> None:
    """The picture is shown as if it had none."""
    assert np.array_equal(shown(with_profile(profile)), levels(CUBE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF"])
def test_profiles_are_applied_in_every_format(kind: str) -> None:
    """As in WebP, and after shrinking: each shows the colour that it stores, as its profile means it."""
    target = BytesIO()
    flat = Image.new("RGB", (640, 480), (90, 170, 110))
    flat.save(target, kind, icc_profile=colour.matrix_profile(colour.DISPLAY_P3), quality=100)
    stored = np.asarray(Image.open(target))[0, 0] / 255  # lossy ones store a colour nearby
    head = header.read(target.getvalue())
    image = pixels.render(target.getvalue(), head.format, plan(head, Sizing("square", 96), "fast"))
    expected = levels(colour.in_srgb(stored, colour.DISPLAY_P3))
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= TOLERANCE


# --- inks -----------------------------------------------------------------------------------------------------------

INKS = np.array(list(product((0, 80, 160, 255), repeat=4))).reshape(16, 16, 4)


def ink_jpeg(stored: Array, *, transform: int | None, profile: bytes | None = None) -> bytes:
    """A JPEG of four bands that holds those numbers, with Adobe's marker and its transform, or without the marker."""
    target = BytesIO()
    large = (255 - stored).astype(np.uint8).repeat(PATCH, axis=0).repeat(PATCH, axis=1)  # Pillow inverts on writing
    image = Image.frombytes("CMYK", large.shape[1::-1], large.tobytes())
    image.save(target, "JPEG", quality=100, subsampling=0, icc_profile=profile)
    data = target.getvalue()
    at = data.index(b"\xff\xee\0\x0eAdobe")
    if transform is None:
        return data[:at] + data[at + 16 :]
    return data[: at + 15] + bytes([transform]) + data[at + 16 :]


def as_ycck(inks: Array) -> Array:
    """Inverted inks as Adobe's fourth colour space stores them: luma and chroma of what they let through, and black."""
    red, green, blue = np.moveaxis(inks[..., :3].astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [128 + 0.564334 * (blue - luma), 128 + 0.713267 * (red - luma)]
    return levels(np.stack([luma, *chroma, 255.0 - inks[..., 3]], axis=-1).clip(0, 255) / 255)


def patches(image: Array) -> Array:
    """The middle of every patch."""
    return np.asarray(image[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH])


@pytest.mark.parametrize(
    ("stored", "transform"),
    [(255 - INKS, 0), (INKS, None), (as_ycck(INKS), 2)],
    ids=["inverted, as Adobe does", "as they are, without Adobe's mark", "YCCK"],
)
def test_inks_without_a_profile(stored: Array, transform: int | None) -> None:
    """CMYK in all three forms that JPEGs hold it in shows the same colours."""
    assert is_near(patches(shown(ink_jpeg(stored, transform=transform))), levels(colour.from_inks(INKS / 255)))


@pytest.mark.parametrize("stored", [255 - INKS, INKS], ids=["inverted", "as they are"])
def test_inks_with_a_profile(stored: Array) -> None:
    """A press's profile says what its inks look like."""
    data = ink_jpeg(stored, transform=0 if stored is not INKS else None, profile=colour.ink_profile())
    assert is_near(patches(shown(data)), levels(colour.from_xyz(colour.from_lab(colour.lab_of_inks(INKS / 255)))))


def test_a_profile_for_screens_is_ignored_on_inks() -> None:
    """A profile must fit the picture."""
    data = ink_jpeg(255 - INKS, transform=0, profile=colour.matrix_profile(colour.PROPHOTO))
    assert is_near(patches(shown(data)), levels(colour.from_inks(INKS / 255)))


def test_sixteen_bits_of_transparent_colour(make_png: MakePng) -> None:
    """A transparent colour of 16 bits is met to the last bit in grey."""
    row = struct.pack(">4H", 0x1234, 0x1235, 0x1234, 0xFFFF)
    data = make_png((4, 1), depth=16, color=0, rows=[row], chunks=[(b"tRNS", struct.pack(">H", 0x1234))])
    assert shown(data)[0, ::32, 0].tolist() == [255, 18, 255, 255]


# --- several pictures in one file -----------------------------------------------------------------------------------

FEW = levels(CUBE)[::6, ::6]


def large(colours: Array) -> Image.Image:
    """A patch of each of those levels, which compression hardly changes."""
    return Image.fromarray(colours.astype(np.uint8).repeat(PATCH, axis=0).repeat(PATCH, axis=1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})],
    ids=["PNG", "WebP", "AVIF"],
)
def test_animations_show_how_they_begin(kind: str, options: dict[str, Any]) -> None:
    """Each colour of the first frame, and nothing of the others."""
    target = BytesIO()
    large(FEW).save(target, kind, save_all=True, append_images=[large(255 - FEW), large(FEW[::-1])], **options)
    assert is_near(patches(shown(target.getvalue())), FEW)


def test_a_moving_gif_shows_how_it_begins() -> None:
    """In the colours of its palette."""
    few = levels(CUBE)[:4, :4].repeat(8, axis=0).repeat(8, axis=1)
    target = BytesIO()
    first, second = (Image.fromarray(each.astype(np.uint8)).quantize(256) for each in (few, 255 - few))
    first.save(target, "GIF", save_all=True, append_images=[second], loop=0)
    assert is_near(shown(target.getvalue()), few)


GAIN = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/' hdrgm:Version='1.0' hdrgm:GainMapMax='4'/>"


@pytest.mark.parametrize("form", ["alone", "of two cameras", "with a map of its light"])
def test_of_several_jpegs_in_one_the_first_is_shown(form: str) -> None:
    """As it is: neither mixed with the picture of a second lens, nor brightened by a gain map behind it."""
    lossless: dict[str, Any] = {"quality": 100, "subsampling": 0}
    data, second = (made.saved(large(colours), "JPEG", **lossless) for colours in (FEW, 255 - FEW))
    if form == "of two cameras":
        data = made.saved(large(FEW), "MPO", save_all=True, append_images=[large(255 - FEW)], **lossless)
    if form == "with a map of its light":
        data = data[:2] + struct.pack(">HH", 0xFFE1, len(GAIN) + 2) + GAIN + data[2:] + second
    assert is_near(patches(shown(data)), FEW)
