"""Pictures inside the request: data URLs, and bare base64 as some clients send it. Pure: no I/O.

The usual form takes the fast path of pybase64 (17 GB/s). What it refuses is read once more, tolerantly, in the forms
that real clients send: without padding, in the URL-safe alphabet, with line breaks or spaces. Two decisions:

- The media type is a label, and clients mislabel; it is not looked at. The bytes decide (`sniff`).
- Non-zero bits after the last byte ("QR==" for "QQ==") are accepted. A picture is known by the digest of its bytes, so
  the two spellings are one picture, in the cache as well.
"""

import re

import pybase64

from gateway.images import refusal
from gateway.images.shared import View
from gateway.images.sniff import sniff

_MAX_HEAD = 1024  # characters before the comma
_DATA = re.compile(r"data:", re.IGNORECASE | re.ASCII)
_LABEL = re.compile(r"data:image/(?:x-)?([a-z0-9]{1,10})[;,]", re.IGNORECASE | re.ASCII)
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")
_URL_SAFE = str.maketrans("-_", "+/")


def decode(text: str, *, param: str, max_bytes: int) -> bytes:
    """The bytes of a data URL or of bare base64, at least one and at most `max_bytes`.

    Bare base64 has to be a picture, since any word could be base64.

    Raises:
        PictureError: `invalid_base64_image`, `image_file_too_large`, `empty_image_file` or, when the text is no data
            URL and no picture in base64 either, `invalid_image_url`; at `param`.
    """
    if _DATA.match(text):
        return _decode_data_url(text, param, max_bytes)
    try:
        data = _decode_base64(text, param, max_bytes)
    except ValueError:
        raise refusal.unknown_source(param) from None
    if sniff(data) is None:
        raise refusal.unknown_source(param)
    return data


def label(text: str) -> str | None:
    """The format that a data URL says it is, in upper case; None where it says nothing of a picture."""
    found = _LABEL.match(text)
    return found[1].upper() if found else None


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
        data = _decode_base64(text[comma + 1 :], param, max_bytes)
    except ValueError:
        raise refusal.invalid_base64(param, "an invalid base64-encoded value") from None
    if not data:
        raise refusal.empty(param)
    return data


def _says_base64(head: str) -> bool:
    _, *parameters = head.split(";")
    return bool(parameters) and parameters[-1].strip().lower() == "base64"


def _decode_base64(text: str, param: str, max_bytes: int) -> bytes:
    """Decodes after a look at the length.

    Raises:
        PictureError: `image_file_too_large`.
        ValueError: this is no base64.
    """
    if _decoded_length(text) > max_bytes:
        text = _WHITE_SPACE.sub("", text)
        if _decoded_length(text) > max_bytes:
            raise refusal.too_many_bytes(param, max_bytes)
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return _decode_tolerantly(text)


def _decoded_length(text: str) -> int:
    """How many bytes the base64 holds at least, white space being counted as digits."""
    digits = len(text)
    return digits // 4 * 3 + max(0, digits % 4 - 1) - text.endswith("=") - text.endswith("==")


def _decode_tolerantly(text: str) -> bytes:
    compact = _WHITE_SPACE.sub("", text).translate(_URL_SAFE)
    digits = compact.rstrip("=")
    padding = "=" * (-len(digits) % 4)
    if len(compact) not in (len(digits), len(digits) + len(padding)):
        raise ValueError("the padding does not fit")
    return pybase64.b64decode(digits + padding, validate=True)
