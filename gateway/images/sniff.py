"""What bytes are, told by the bytes themselves: a format of pictures, or something else that has a name. Pure: no I/O.

Labels, names and types that came along are not trusted.
"""

import re
from typing import Literal, get_args

Format = Literal["jpeg", "png", "webp", "gif", "avif", "heic", "tiff", "bmp"]

FORMATS: tuple[Format, ...] = get_args(Format)
NAMES: dict[Format, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WebP",
    "gif": "GIF",
    "avif": "AVIF",
    "heic": "HEIC",
    "tiff": "TIFF",
    "bmp": "BMP",
}

_FTYP = rb"(?s)\A\0\0\0[\x10-\xff]ftyp(?:.{4}){%s}(?:%s)"  # a box of file types: its length, its name, then brands
_MAGIC: dict[Format, re.Pattern[bytes]] = {
    "jpeg": re.compile(rb"\A\xff\xd8\xff"),
    "png": re.compile(rb"\A\x89PNG\r\n\x1a\n"),
    "webp": re.compile(rb"(?s)\ARIFF.{4}WEBP"),
    "gif": re.compile(rb"\AGIF8[79]a"),
    "avif": re.compile(_FTYP % (b"0,8", b"avif|avis")),
    "heic": re.compile(_FTYP % (b"0,8", b"hei[cfmsx]|hev[cmsx]|mif1|msf1")),
    "tiff": re.compile(rb"\A(?:II\*\0|MM\0\*)"),
    "bmp": re.compile(rb"(?s)\ABM.{4}\0{4}"),
}
_TEXT = rb"(?is)\A(?:\xef\xbb\xbf)?\s*"
_BEFORE_HTML = _TEXT + rb"(?:<\?xml\b[^>]*>\s*)?(?>(?:<!--.*?-->\s*)*)"
_TAGS = rb"html|head|body|script|iframe|h1|div|font|table|a|style|title|b|br|p|meta|link"  # browsers', mostly
_STRANGERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(_BEFORE_HTML + rb"<(?:!doctype html|" + _TAGS + rb")\b"), "an HTML page"),
    (re.compile(_TEXT + rb"<(?:svg\b|!doctype svg|\?xml.*<svg\b)"), "an SVG drawing"),
    (re.compile(_TEXT + rb"<\?xml\b"), "an XML document"),
    (re.compile(_TEXT + rb"%PDF-"), "a PDF document"),
    (re.compile(rb"\A(?:%!PS|\xc5\xd0\xd3\xc6)"), "a PostScript drawing (EPS)"),
    (re.compile(rb"\A8BPS"), "a Photoshop document"),
    (re.compile(rb"\A(?:\0\0\0\x0cjP  |\xff\x4f\xff\x51)"), "a JPEG 2000 picture"),
    (re.compile(rb"(?s)\A(?:.{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI )"), "a video"),
    (re.compile(rb"\A(?:II\+\0|MM\0\+)"), "a BigTIFF picture"),
    (re.compile(rb"\A\0\0\x01\0"), "an icon (ICO)"),
    (re.compile(rb"\A(?:\xff\x0a|\0\0\0\x0cJXL )"), "a JPEG XL picture"),
    (re.compile(rb"\A(?:PK\x03\x04|PK\x05\x06)"), "a ZIP archive or an office document"),
    (re.compile(rb"\A\x1f\x8b"), "data compressed with gzip"),
    (re.compile(rb"\A\s*(?:(?i:data:image/)|iVBORw0KGgo|/9j/|R0lGOD|UklGR)"), "base64 text, encoded once too often"),
    (re.compile(rb"\Aversion https://git-lfs"), "a pointer of Git LFS and not the file that it stands for"),
    (re.compile(_TEXT + rb"[\[{][\s\"\[{\]}0-9tfn-]"), "a JSON document"),
    (re.compile(rb"\A(?:\xef\xbb\xbf)?[\t\n\r\x20-\x7e]+\Z"), "plain text"),
)
_GLANCE = 1024  # bytes that decide


def sniff(data: bytes) -> Format | None:
    """The format of a picture by its first bytes, None if it is none of ours, whether or not that one is enabled."""
    head = data[:_GLANCE]
    return next((kind for kind, magic in _MAGIC.items() if magic.match(head)), None)


def recognise(data: bytes) -> str | None:
    """What bytes are, in words that follow "are" or "returned", where it can be told."""
    if kind := sniff(data):
        name = NAMES[kind]
        return f"{'an' if name[0] in 'AH' else 'a'} {name} picture"
    head = data[:_GLANCE]
    return next((name for pattern, name in _STRANGERS if pattern.search(head)), None)
