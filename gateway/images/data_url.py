"""Pictures inside the request: data URLs, and bare base64 as some clients send it. Pure: no I/O.

The usual form takes the fast path of pybase64 (17 GB/s). What it refuses is read once more, tolerantly, in the forms
that real clients send: without padding, in the URL-safe alphabet, with line breaks or spaces. Two decisions:

- The media type is a label, and clients mislabel; it is not looked at. The bytes decide (`sniff`).
- Non-zero bits after the last byte ("QR==" for "QQ==") are accepted. A picture is known by the digest of its bytes, so
  the two spellings are one picture, in the cache as well.
"""

import ctypes
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import pybase64

from gateway.images import refusal
from gateway.images.shared import View
from gateway.images.sniff import Format, sniff

_MAX_HEAD = 1024  # characters before the comma
_DATA = re.compile(r"data:", re.IGNORECASE | re.ASCII)
_BLANKS_FIRST = re.compile(r"\s+(?:data|https?):", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"data:image/(?:x-)?([a-z0-9]{1,10})[;,]", re.IGNORECASE | re.ASCII)
_ALIASES = {"JPG": "JPEG", "HEIF": "HEIC", "TIF": "TIFF"}  # other names on labels
_WHITE_SPACE = b" \t\r\n"
_SPARSEST = 5 / 4  # characters for each digit, at most; lines of 64 digits have 66
_SHORT = 1024  # bytes; of what is so short, any part may be white space
_PIECE = 2**20  # characters; between two pieces other threads get their turn
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

_READ_ONLY = 0x100
_characters = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
_characters.restype, _characters.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_void_p)
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype, _view.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)


def decode(text: str, *, param: str, max_bytes: int, formats: Sequence[Format]) -> bytes:
    """The bytes of a data URL or of bare base64, at least one and at most `max_bytes`.

    Bare base64 has to be a picture, since any word could be base64. `formats` are those that a refusal names.

    Raises:
        PictureError: `invalid_base64_image`, `image_file_too_large`, `empty_image_file` or, when the text is no data
            URL and no picture in base64 either, `invalid_image_url`; at `param`.
    """
    if _DATA.match(text):
        return _decode_data_url(text, param, max_bytes)
    if _BLANKS_FIRST.match(text):
        raise refusal.unusable_url(param, "begins with white space; remove it")
    try:
        data = _decode_base64(text, 0, param, max_bytes)
    except ValueError:
        raise refusal.unknown_source(param, formats) from None
    if sniff(data) is None:
        raise refusal.unknown_source(param, formats)
    return data


def label(text: str) -> str | None:
    """The format that a data URL says it is, in upper case; None where it says nothing of a picture."""
    found = _LABEL.match(text)
    if found is None:
        return None
    name = found[1].upper()
    return _ALIASES.get(name, name)


def encode(data: View, kind: str) -> str:
    """The data URL of a picture of that kind, as it stands after "image/"."""
    return f"data:image/{kind};base64,{pybase64.b64encode_as_string(data)}"


def _decode_data_url(text: str, param: str, max_bytes: int) -> bytes:
    comma = text.find(",", 0, _MAX_HEAD)
    if comma < 0:
        raise refusal.invalid_base64(param, "a value without a comma before its data")
    if not _says_base64(text[:comma]):
        raise refusal.invalid_base64(param, "a value without the ';base64' separator")
    try:
        data = _decode_base64(text, comma + 1, param, max_bytes)
    except ValueError:
        raise refusal.invalid_base64(param, "an invalid base64-encoded value") from None
    if not data:
        raise refusal.empty(param)
    return data


def _says_base64(head: str) -> bool:
    _, *parameters = head.split(";")
    return bool(parameters) and parameters[-1].strip().lower() == "base64"


def _decode_base64(text: str, start: int, param: str, max_bytes: int) -> bytes:
    """Decodes what stands from `start` on, after a look at its length.

    Raises:
        PictureError: `image_file_too_large`.
        ValueError: this is no base64.
    """
    length = _decoded_length(text, start)
    if length <= max_bytes and text.isascii():
        with suppress(ValueError):
            return pybase64.b64decode(_bytes_of(text)[start:], validate=True)
    elif length > max_bytes * _SPARSEST + _SHORT:
        raise refusal.too_many_bytes(param, max_bytes)
    text = _compact(text, start)
    if _decoded_length(text) > max_bytes:
        raise refusal.too_many_bytes(param, max_bytes)
    return _decode_padded(text)


def _bytes_of(text: str) -> memoryview:
    """The bytes in which Python keeps an ASCII text, for as long as that lives: a slice of it would be another copy."""
    return cast("memoryview", _view(_characters(text, None), len(text), _READ_ONLY))


def _decoded_length(text: str, start: int = 0) -> int:
    """How many bytes the base64 from `start` on holds at least, white space being counted as digits."""
    digits = len(text) - start
    return digits // 4 * 3 + max(0, digits % 4 - 1) - text.endswith("=", start) - text.endswith("==", start)


def _compact(text: str, start: int) -> str:
    """The text from there on without white space, in the usual alphabet; a ValueError where it is not ASCII."""
    pieces = (text[at : at + _PIECE].encode("ascii") for at in range(start, len(text), _PIECE))
    return b"".join(piece.translate(_URL_SAFE, _WHITE_SPACE) for piece in pieces).decode("ascii")


def _decode_padded(compact: str) -> bytes:
    """Decodes what has the right padding or none."""
    digits = compact.rstrip("=")
    padding = "=" * (-len(digits) % 4)
    if len(compact) not in (len(digits), len(digits) + len(padding)):
        raise ValueError("the padding does not fit")
    return pybase64.b64decode(digits + padding, validate=True)
