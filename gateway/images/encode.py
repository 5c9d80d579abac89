"""Writes a picture for an engine, in a form that costs no compression.

    png   unfiltered and stored, with two checksums: what every server reads; compressed when it is very large
    bmp   pixels as they are
    ppm   pixels as they are, behind the shortest header

Sources: the PNG specification, third edition, sections 5 (chunks), 9.2 (filter type 0) and 11.2; RFC 1950 (zlib) and
1951, 3.2.4 (stored blocks); Microsoft's documentation of BITMAPINFOHEADER; Netpbm's ppm(5).
"""

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image  # the gateway, which asks for lengths, does without Pillow

Form = Literal["png", "bmp", "ppm"]

_STORED = 4_000_000  # pixels up to which the way to an engine costs less than to compress
_BLOCK = 65535  # bytes in a stored block
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ZLIB_HEADER = b"\x78\x01"
_CHUNK = 12  # bytes of a chunk beside its data
_IHDR = 13
_BMP_HEADER = 54


def length(form: Form, size: tuple[int, int]) -> int:
    """The most bytes that an RGB picture of the size (width, height) takes; all but large PNGs take exactly those."""
    width, height = size
    match form:
        case "png":
            return len(_PNG_SIGNATURE) + 3 * _CHUNK + _IHDR + _zlib_length(height * (1 + 3 * width))
        case "bmp":
            return _BMP_HEADER + height * _bmp_row(width)
        case "ppm":
            return len(_ppm_header(size)) + height * 3 * width


def write(image: "Image.Image", form: Form, target: memoryview) -> int:
    """Writes an RGB picture into `target`, which is of its `length`; how many bytes of it were used."""
    match form:
        case "png":
            return _write_png(image, target)
        case "bmp":
            target[:_BMP_HEADER] = _bmp_header(image.size)
            target[_BMP_HEADER:] = image.tobytes("raw", "BGR", _bmp_row(image.width), 1)
        case "ppm":
            header = _ppm_header(image.size)
            target[: len(header)] = header
            target[len(header) :] = image.tobytes()
    return len(target)


# --- PNG ------------------------------------------------------------------------------------------------------------


def _write_png(image: "Image.Image", target: memoryview) -> int:
    if image.width * image.height > _STORED and len(data := _compressed(image)) <= len(target):
        target[: len(data)] = data
        return len(data)
    _write_stored_png(image, target)
    return len(target)


def _compressed(image: "Image.Image") -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _write_stored_png(image: "Image.Image", target: memoryview) -> None:
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)
    start = _PNG_SIGNATURE + _chunk(b"IHDR", header)
    end = _chunk(b"IEND", b"")
    target[: len(start)] = start
    target[-len(end) :] = end
    _write_data(image, target[len(start) : -len(end)])


def _write_data(image: "Image.Image", target: memoryview) -> None:
    """The chunk of the pixels."""
    content = target[8:-4]
    target[:8] = struct.pack(">I4s", len(content), b"IDAT")
    _store(_rows(image), content)
    target[-4:] = struct.pack(">I", zlib.crc32(target[4:-4]))


def _rows(image: "Image.Image") -> bytearray:
    """The picture's rows, each behind the byte that says that it is not filtered."""
    pixels, width = memoryview(image.tobytes()), 3 * image.width
    rows = bytearray(image.height * (1 + width))
    for row in range(image.height):
        at = row * (1 + width) + 1
        rows[at : at + width] = pixels[row * width : (row + 1) * width]
    return rows


def _store(data: bytearray, target: memoryview) -> None:
    """A zlib stream that holds the data as it is, in blocks."""
    target[:2] = _ZLIB_HEADER
    at, view = 2, memoryview(data)
    for start in range(0, len(data), _BLOCK):
        block = view[start : start + _BLOCK]
        last = start + _BLOCK >= len(data)
        target[at : at + 5] = struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF)
        target[at + 5 : at + 5 + len(block)] = block
        at += 5 + len(block)
    target[at:] = struct.pack(">I", zlib.adler32(data))


def _zlib_length(size: int) -> int:
    return len(_ZLIB_HEADER) + size + 5 * -(-size // _BLOCK) + 4


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


# --- BMP and PPM ----------------------------------------------------------------------------------------------------


def _bmp_row(width: int) -> int:
    """The bytes of a row, which fill whole words."""
    return -(-3 * width // 4) * 4


def _bmp_header(size: tuple[int, int]) -> bytes:
    """The header of a picture whose rows go from top to bottom, which a negative height says."""
    width, height = size
    pixels = height * _bmp_row(width)
    return struct.pack(
        "<2sIIIIiiHHIIiiII",
        b"BM", _BMP_HEADER + pixels, 0, _BMP_HEADER, 40, width, -height, 1, 24, 0, pixels, 0, 0, 0, 0,
    )  # fmt: skip


def _ppm_header(size: tuple[int, int]) -> bytes:
    return b"P6\n%d %d\n255\n" % size
