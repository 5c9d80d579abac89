"""What is recognised as a picture, and what is refused before or while it is decoded."""

import struct
import time
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from gateway.errors import PictureError
from gateway.images.decode import Format, opened, require_format, sniff

from .conftest import STEADY, MakePng

PARAM = "messages[0].content[1].image_url.url"
FORMATS: tuple[Format, ...] = ("jpeg", "png", "webp", "gif")
LIMIT = 50_000_000


def picture(kind: Format, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of noise, so that cutting it anywhere hurts."""
    target = BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(target, kind)
    return target.getvalue()


PICTURES = {kind: picture(kind) for kind in FORMATS}


def load(data: bytes, *, max_pixels: int = LIMIT) -> tuple[int, int]:
    """Opens and decodes; the size."""
    kind = require_format(data, param=PARAM)
    with opened(data, kind, max_pixels=max_pixels, param=PARAM) as image:
        image.load()
        return image.size


def refused(data: bytes, *, max_pixels: int = LIMIT) -> PictureError:
    """The error with which the bytes are refused; it holds nothing of Pillow's or of this machine's."""
    with pytest.raises(PictureError) as caught:
        load(data, max_pixels=max_pixels)
    error = caught.value
    assert error.param == PARAM
    assert error.status == 400
    assert not any(
        word in error.message for word in ("0x", "object", "PIL", "Error", "BytesIO", "truncated", " file (")
    )
    return error


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_the_four_formats_are_known_by_their_bytes(kind: Format) -> None:
    """No label is needed."""
    assert sniff(PICTURES[kind]) == kind
    assert load(PICTURES[kind]) == (40, 30)


def encoded_as(kind: str) -> bytes:
    """A small picture in a format that is not read."""
    target = BytesIO()
    Image.new("RGB", (64, 64)).save(target, kind)
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<!DOCTYPE html><title>Not found</title>", "an HTML page"),
        (b"\xef\xbb\xbf\n <html lang=en>", "an HTML page"),
        (b"<!-- hello -->\n<HTML>", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?>\n<!DOCTYPE svg><svg/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"\0\0\0\x20ftypheic\0\0\0\0mif1heic", "an HEIC picture"),
        (b"\0\0\0\x20ftypmif1\0\0\0\0", "an HEIC picture"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "a video"),
        (encoded_as("AVIF"), "an AVIF picture"),
        (encoded_as("TIFF"), "a TIFF picture"),
        (b"MM\0*\0\0\0\x08", "a TIFF picture"),
        (encoded_as("BMP"), "a BMP picture"),
        (encoded_as("ICO"), "an icon (ICO)"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b'{"error": "not found"}', "a JSON document"),
        (b'[\n {"a": 1}]', "a JSON document"),
        (b"Not found\n", "plain text"),
    ],
)  # fmt: skip
def test_other_things_are_named(data: bytes, name: str) -> None:
    """Whoever sends something else learns what it is, and what to send."""
    error = refused(data)
    assert error.code == "invalid_image_format"
    assert error.message == f"The picture at '{PARAM}' is {name}. Send a JPEG, PNG, WebP or GIF."


@pytest.mark.parametrize(
    "data", [b"", b"\x01", bytes(11), bytes(12), bytes(4096), b"\x89PNG", b"RIFF1234WAVE\0", b"GIF88a\0"]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    """What nobody knows is refused with the accepted formats."""
    error = refused(data)
    assert error.code == "invalid_image_format"
    assert "is in a format that is not read. Send a JPEG, PNG, WebP or GIF." in error.message


@STEADY
@given(st.binary(max_size=64))
def test_naming_never_fails(data: bytes) -> None:
    """Any bytes are either a format or refused."""
    assert sniff(data) or refused(data).code == "invalid_image_format"


def test_comments_cannot_stall_the_naming() -> None:
    """A page that seems to begin again and again costs no time."""
    started = time.perf_counter()
    refused(b"<!---->" * 1000)
    assert time.perf_counter() - started < 0.1


def test_a_label_inside_cannot_choose_the_parser() -> None:
    """TIFF, which Pillow would open, is not opened under the name of a JPEG."""
    with pytest.raises(PictureError), opened(encoded_as("TIFF"), "jpeg", max_pixels=LIMIT, param=PARAM):
        pass


# --- limits ---------------------------------------------------------------------------------------------------------


def webp_header(width: int, height: int) -> bytes:
    """An animated WebP of two tiny frames on a canvas that claims another size."""
    target = BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(target, "webp", save_all=True, append_images=frames[1:])
    data = target.getvalue()
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose frame claims another size than its data has."""
    data = bytearray(PICTURES["jpeg"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    """A GIF whose screen claims another size."""
    return PICTURES["gif"][:6] + struct.pack("<HH", width, height) + PICTURES["gif"][10:]


@pytest.fixture
def never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes decoding fail the test."""

    def load(self: ImageFile.ImageFile) -> None:
        raise AssertionError("a pixel was decoded")

    for parser in (ImageFile.ImageFile, WebPImageFile):
        monkeypatch.setattr(parser, "load", load)


@pytest.mark.usefixtures("never_decoded")
@pytest.mark.parametrize("size", [(13_000, 13_000), (16_383, 16_383), (7_072, 7_072)])
def test_bombs_are_refused_from_the_header(make_png: MakePng, size: tuple[int, int]) -> None:
    """A few bytes that claim more pixels than allowed are never decoded, and the limit is named."""
    bombs = [make_png(size, depth=1, color=0, rows=[]), gif_header(*size), jpeg_header(*size), webp_header(*size)]
    started = time.perf_counter()
    for data in bombs:
        error = refused(data)
        assert error.code == "image_too_large"
        assert "at most 50,000,000 pixels" in error.message
    assert time.perf_counter() - started < 1


@pytest.mark.usefixtures("never_decoded")
@pytest.mark.parametrize("size", [(65_535, 65_535), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
def test_sizes_beyond_any_memory_are_refused(make_png: MakePng, size: tuple[int, int]) -> None:
    """Numbers that overflow elsewhere are only numbers here."""
    assert refused(make_png(size, depth=1, color=0, rows=[])).code == "image_too_large"


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pictures_without_pixels_are_damaged(make_png: MakePng, size: tuple[int, int]) -> None:
    """A side of zero is no side."""
    assert refused(make_png(size, depth=8, color=0, rows=[])).code == "image_parse_error"


def test_the_limit_of_pixels_is_exact() -> None:
    """The limit itself is allowed; one pixel less is not, and the picture's size is told."""
    assert load(PICTURES["png"], max_pixels=1200) == (40, 30)
    assert "It has 40 x 30." in refused(PICTURES["png"], max_pixels=1199).message


@pytest.mark.parametrize("size", [(101, 1), (1, 101), (10_000, 1), (1, 10_000)])
def test_oblong_pictures_are_refused(size: tuple[int, int]) -> None:
    """More than a hundred to one is no picture that a model can look at."""
    error = refused(picture("png", size))
    assert error.code == "image_too_large"
    assert "at most 100 times its shorter one" in error.message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (100, 1), (1, 100)])
def test_tiny_pictures_are_fine(kind: Format, size: tuple[int, int]) -> None:
    """A single pixel is a picture."""
    assert load(picture(kind, size)) == size


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_pictures_are_damaged(kind: Format) -> None:
    """Cut anywhere before its end, a picture is refused, not shown half grey."""
    data = PICTURES[kind]
    for tenths in range(1, 10):
        assert refused(data[: len(data) * tenths // 10]).code == "image_parse_error"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_prefix_is_refused_or_whole(kind: Format) -> None:
    """However little is left of a file, the answer is one of ours."""
    for length in range(200):
        assert refused(PICTURES[kind][:length]).code in ("image_parse_error", "invalid_image_format")


@pytest.mark.parametrize("kind", FORMATS)
@STEADY
@given(data=st.data())
def test_flipped_bytes_are_decoded_or_refused(kind: Format, data: st.DataObject) -> None:
    """Damage anywhere leads to a picture or to one of our sentences."""
    spoilt = bytearray(PICTURES[kind])
    for place, value in data.draw(st.lists(st.tuples(st.integers(12, 300), st.integers(0, 255)), max_size=8)):
        spoilt[place] = value
    code: str | None = None
    width = height = 0
    try:
        width, height = load(bytes(spoilt), max_pixels=10**6)
    except PictureError as error:
        code = error.code
    assert code in (None, "image_parse_error", "image_too_large", "invalid_image_format")
    assert width * height <= 10**6


def test_whatever_a_parser_raises_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exception of a library's gets past, nor does its text."""
    for surprise in (
        OSError,
        SyntaxError,
        EOFError,
        MemoryError,
        struct.error,
        KeyError,
        RecursionError,
        ZeroDivisionError,
    ):
        monkeypatch.setattr(
            ImageFile.ImageFile, "load", lambda self, kind=surprise: _raise(kind("at 0x7f <BytesIO object>"))
        )
        assert refused(PICTURES["png"]).code == "image_parse_error"


def _raise(error: Exception) -> None:
    raise error
