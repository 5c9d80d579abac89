"""A picture out of a data URL, or out of the one folder that pictures may be read from.

Engines never fetch; behind the gateway a picture is an RGB PPM of its making.
"""

import base64
import binascii
import io
import re
from pathlib import Path
from typing import Final

from PIL import Image

from gateway.wire import Fault

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "PPM")
MAX_PIXELS: Final = 50_000_000

_FETCHED = re.compile(r"https?:", re.IGNORECASE)
_FILE = re.compile(r"file://(/[\w./-]+)", re.ASCII)
_DATA = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


def decode(url: str, path: str, folder: Path | None = None) -> Image.Image:
    """The picture in RGB, its first frame where it has several. Files are read out of `folder` alone.

    Raises:
        Fault: there is no picture in the URL, it is too large or broken; `path` becomes its `param`.
    """
    data = _bytes_of(url, path, folder)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_large(path)
            return picture.convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(path) from None
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, Fault):
            raise
        raise Fault(
            f"The picture in '{path}' could not be read. Send a whole PNG, JPEG, WebP or GIF file.",
            param=path,
            code="image_parse_error",
        ) from None


def _too_large(path: str) -> Fault:
    return Fault(
        f"The picture in '{path}' has more than {MAX_PIXELS // 1_000_000} million pixels. Send it smaller.",
        param=path,
        code="image_too_large",
    )


def _bytes_of(url: str, path: str, folder: Path | None) -> bytes:
    file = _FILE.fullmatch(url)
    if file and folder is not None:
        return _read(folder, file[1], path)
    if _FETCHED.match(url):
        raise Fault(
            f"'{path}' is an address, and an engine fetches nothing. Send the picture as a base64 data URL, or "
            "send the request to the gateway, which fetches it.",
            param=path,
            code="invalid_image_url",
        )
    data = _DATA.match(url)
    text = url[data.end() :] if data else url
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Fault(
            f"Invalid image URL: '{path}'. Expected a base64-encoded data URL with an image MIME type (e.g. "
            "'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU=').",
            param=path,
            code="invalid_value",
        ) from None


def _read(folder: Path, name: str, path: str) -> bytes:
    file = Path(name)
    try:
        if folder.resolve() not in file.resolve().parents:
            raise PermissionError
        return file.read_bytes()
    except OSError:
        raise Fault(
            f"'{path}' is a file that is not there for this engine. Send the picture as a base64 data URL.",
            param=path,
            code="invalid_image_url",
        ) from None
