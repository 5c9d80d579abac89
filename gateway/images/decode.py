"""Opens a picture safely: its format told by its bytes, its size checked in the header before a pixel is decoded.

This is the one seam to Pillow's parsers. Their exceptions end here, as fixed sentences.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Literal, get_args

from PIL import Image, ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from gateway.errors import GatewayError
from gateway.images import refusal

Format = Literal["jpeg", "png", "webp", "gif"]

MAX_RATIO = 100  # longer side to shorter; no model makes sense of more, and some fail on it

_MAGIC: dict[Format, re.Pattern[bytes]] = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "gif": re.compile(rb"GIF8[79]a"),
}

# The parser of exactly the format found, rather than Image.open: no other of Pillow's 40 parsers gets to see the
# bytes, and no limit has to be set for the whole process. JpegImageFile reads the first picture of an MPO, too.
_PARSERS: dict[Format, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
}

_TEXT = rb"(?is)\A(?:\xef\xbb\xbf)?\s*"
_STRANGERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(_TEXT + rb"(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)\b"), "an HTML page"),
    (re.compile(_TEXT + rb"<(?:svg\b|!doctype svg|\?xml.*<svg\b)"), "an SVG drawing"),
    (re.compile(_TEXT + rb"<\?xml\b"), "an XML document"),
    (re.compile(rb"\A%PDF-"), "a PDF document"),
    (re.compile(rb"(?s)\A.{4}ftyp(?:avif|avis)"), "an AVIF picture"),
    (re.compile(rb"(?s)\A.{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1)"), "an HEIC picture"),
    (re.compile(rb"(?s)\A.{4}ftyp"), "a video"),
    (re.compile(rb"(?s)\A(?:II[*+]\0|MM\0[*+])"), "a TIFF picture"),
    (re.compile(rb"(?s)\ABM.{4}\0{4}"), "a BMP picture"),
    (re.compile(rb"\A\0\0\x01\0"), "an icon (ICO)"),
    (re.compile(rb"\A(?:\xff\x0a|\0\0\0\x0cJXL )"), "a JPEG XL picture"),
    (re.compile(_TEXT + rb"[\[{][\s\"\[{\]}0-9tfn-]"), "a JSON document"),
    (re.compile(rb"\A(?:\xef\xbb\xbf)?[\t\n\r\x20-\x7e]+\Z"), "plain text"),
)
_GLANCE = 1024  # bytes that decide what a stranger is


def sniff(data: bytes) -> Format | None:
    """The picture's format by its first bytes, None if it is not one that is read. Labels and names are not trusted."""
    return next((kind for kind in get_args(Format) if _MAGIC[kind].match(data)), None)


def require_format(data: bytes, *, param: str) -> Format:
    """The picture's format.

    Raises:
        PictureError: `invalid_image_format`, naming what the bytes are instead, where that can be told.
    """
    kind = sniff(data)
    if kind is None:
        raise refusal.not_a_picture(param, _recognise(data[:_GLANCE]))
    return kind


@contextmanager
def opened(data: bytes, kind: Format, *, max_pixels: int, param: str) -> Iterator[Image.Image]:
    """The picture with its header read and its size within the limits, its pixels not yet decoded.

    Errors of decoding that come up inside the `with` block are translated as well, for Pillow decodes late.

    Raises:
        PictureError: `image_too_large` or `image_parse_error`, at `param`.
    """
    try:
        image = _PARSERS[kind](BytesIO(data))
        _check_size(image.size, max_pixels, param)
        yield image
    except GatewayError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise refusal.too_many_pixels(param, None, max_pixels) from error
    # Hostile bytes make Pillow raise nearly anything (OSError, SyntaxError, ValueError, EOFError, struct.error,
    # IndexError, MemoryError...), and its text can tell about this process (CVE-2026-22778 began with such a message).
    except Exception as error:
        raise refusal.damaged(param) from error


def _check_size(size: tuple[int, int], max_pixels: int, param: str) -> None:
    short, long = sorted(size)
    if short < 1:
        raise refusal.damaged(param)
    if short * long > max_pixels:
        raise refusal.too_many_pixels(param, size, max_pixels)
    if long > MAX_RATIO * short:
        raise refusal.too_oblong(param, size, MAX_RATIO)


def _recognise(head: bytes) -> str | None:
    return next((name for pattern, name in _STRANGERS if pattern.search(head)), None)
