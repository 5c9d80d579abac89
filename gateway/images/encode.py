"""Writes a picture for an engine, in a form that costs no compression.

    png   unfiltered and stored, with two checksums: what every server reads; compressed when it is very large
    bmp   pixels as they are
    ppm   pixels as they are, behind the shortest header

Sources: the PNG specification, third edition, sections 5 (chunks), 9.2 (filter type 0) and 11.2; RFC 1950 (zlib) and
1951, 3.2.4 (stored blocks); Microsoft's documentation of BITMAPINFOHEADER; Netpbm's ppm(5).
"""

import struct
import zlib
from collections.abc import Iterator
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


def pieces(image: "Image.Image", form: Form) -> Iterator[bytes | memoryview]:
    """The file of an RGB picture, piece by piece: together of its `length`, or of less."""
    match form:
        case "png":
            yield from _png(image)
        case "bmp":
            yield _bmp_header(image.size)
            yield image.tobytes("raw", "BGR", _bmp_row(image.width), 1)
        case "ppm":
            yield _ppm_header(image.size)
            yield image.tobytes()


# --- PNG ------------------------------------------------------------------------------------------------------------


def _png(image: "Image.Image") -> Iterator[bytes | memoryview]:
    if image.width * image.height > _STORED and len(data := _compressed(image)) <= length("png", image.size):
        yield data
        return
    yield _PNG_SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0))
    yield from _pixels(image)
    yield _chunk(b"IEND", b"")


def _compressed(image: "Image.Image") -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _pixels(image: "Image.Image") -> Iterator[bytes | memoryview]:
    """The chunk of the pixels."""
    rows = _rows(image)
    yield struct.pack(">I", _zlib_length(len(rows)))
    checksum = 0
    for piece in (b"IDAT", *_stored(rows)):
        checksum = zlib.crc32(piece, checksum)
        yield piece
    yield struct.pack(">I", checksum)


def _rows(image: "Image.Image") -> bytearray:
    """The picture's rows, each behind the byte that says that it is not filtered."""
    pixels, width = memoryview(image.tobytes()), 3 * image.width
    rows = bytearray(image.height * (1 + width))
    for row in range(image.height):
        at = row * (1 + width) + 1
        rows[at : at + width] = pixels[row * width : (row + 1) * width]
    return rows


def _stored(data: bytearray) -> Iterator[bytes | memoryview]:
    """A zlib stream that holds the data as it is, in blocks."""
    view = memoryview(data)
    yield _ZLIB_HEADER
    for start in range(0, len(data), _BLOCK):
        block = view[start : start + _BLOCK]
        last = start + _BLOCK >= len(data)
        yield struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF)
        yield block
    yield struct.pack(">I", zlib.adler32(data))


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
