"""Pictures out of data URLs: what is read, and what is refused with which code."""

import base64
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from engines.blip.picture import decode
from gateway.wire import Fault

PATH = "messages[0].content[0].image_url.url"


def data_url(data: bytes, kind: str = "image/png") -> str:
    """The bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def encoded(format_: str, mode: str = "RGB") -> bytes:
    """A small picture as a file."""
    file = io.BytesIO()
    Image.new(mode, (3, 2), "red").save(file, format_)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and has nothing to show for it."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "PPM"])
def test_the_formats_are_read_whatever_their_label(format_: str) -> None:
    """The bytes decide, and the picture is RGB."""
    picture = decode(data_url(encoded(format_), "image/jpeg"), PATH)
    assert (picture.mode, picture.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("mode", ["L", "RGBA", "1", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """The model sees three channels."""
    assert decode(data_url(encoded("PNG", mode)), PATH).mode == "RGB"


def test_files_are_read_out_of_one_folder_alone(tmp_path: Path) -> None:
    """The gateway's pictures lie there; whatever else a request names is not read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in (folder / "a.ppm", tmp_path / "b.ppm"):
        place.write_bytes(encoded("PPM"))
    (folder / "link.ppm").symlink_to(tmp_path / "b.ppm")

    assert decode(f"file://{folder}/a.ppm", PATH, folder).size == (3, 2)
    for name in ("../b.ppm", "link.ppm", "none.ppm", ""):
        with pytest.raises(Fault) as caught:
            decode(f"file://{folder}/{name}", PATH, folder)
        assert caught.value.param == PATH
        assert str(tmp_path) not in caught.value.message
    with pytest.raises(Fault):
        decode(f"file://{folder}/a.ppm", PATH)


def test_bare_base64_is_read() -> None:
    """As some clients send it."""
    assert decode(base64.b64encode(encoded("PNG")).decode(), PATH).size == (3, 2)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.com/cat.png", "invalid_image_url"),
        ("HTTP://example.com/cat.png", "invalid_image_url"),
        ("data:image/png;base64,!!!", "invalid_value"),
        ("data:image/png,abc", "invalid_value"),
        ("file:///etc/passwd", "invalid_value"),
        (data_url(b""), "image_parse_error"),
        (data_url(b"no picture"), "image_parse_error"),
        (data_url(encoded("JPEG")[:-200]), "image_parse_error"),
        (data_url(encoded("BMP")), "image_parse_error"),
        (data_url(encoded("TIFF")), "image_parse_error"),
        (data_url(png_header(10_000, 5_001)), "image_too_large"),
        (data_url(png_header(10_000, 10_000)), "image_too_large"),
        (data_url(png_header(30_000, 30_000)), "image_too_large"),
    ],
)
def test_what_is_no_picture_is_refused(url: str, code: str) -> None:
    """By its code and its path, and an oversized one before it is decoded."""
    with pytest.raises(Fault) as fault:
        decode(url, PATH)
    assert (fault.value.param, fault.value.code) == (PATH, code)
    assert PATH in fault.value.message
