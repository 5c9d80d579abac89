"""Pictures written for engines: pixel for pixel, in exactly the room that was asked for."""

import struct
import zlib
from io import BytesIO
from typing import get_args

import pytest
from PIL import Image

from gateway.images.encode import Form, length, pieces

FORMS = get_args(Form)
SIZES = [(1, 1), (3, 2), (384, 384), (897, 603), (30_000, 3), (2, 30_000)]


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture whose every channel is its own noise."""
    return Image.merge("RGB", [Image.effect_noise(size, 90) for _ in "rgb"])


def written(image: Image.Image, form: Form) -> bytes:
    """The picture's file."""
    return b"".join(pieces(image, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_written_is_read(form: Form, size: tuple[int, int]) -> None:
    """Every pixel of every shape comes back, and the length was known before."""
    image = noise(size)
    data = written(image, form)
    assert len(data) == length(form, size)
    with Image.open(BytesIO(data), formats=[form.upper()]) as back:
        assert (back.mode, back.size, back.tobytes()) == ("RGB", size, image.tobytes())


def test_a_png_is_whole() -> None:
    """Just the chunks that it needs, each with its checksum, and a zlib stream with its own."""
    data, chunks, at = written(noise((500, 400)), "png"), [], 8
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        content, (checksum,) = data[at + 8 : at + 8 + size], struct.unpack_from(">I", data, at + 8 + size)
        assert zlib.crc32(name + content) == checksum
        chunks.append((name, content))
        at += 12 + size
    assert [name for name, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert len(zlib.decompress(chunks[1][1])) == 400 * 1501


def test_very_large_pngs_are_compressed() -> None:
    """Where the way is longer than the work; what does not get smaller by it is stored."""
    plain = Image.linear_gradient("L").resize((2100, 2100)).convert("RGB")
    data = written(plain, "png")
    assert len(data) < length("png", plain.size) / 10
    with Image.open(BytesIO(data)) as back:
        assert back.tobytes() == plain.tobytes()
    rough = noise((210, 210)).resize((2100, 2000), Image.Resampling.NEAREST)
    assert len(written(rough, "png")) <= length("png", rough.size)
