"""The sentences with which a picture is refused, each with its code. Pure.

They name the field, the cause and the remedy, and never hold a library's words, an address, a status or a URL's query.
Codes: OpenAI's vocabulary for image errors.
"""

from collections.abc import Sequence

from gateway.errors import PictureError
from gateway.images.sniff import NAMES, Format

_FORMS = (
    "an http(s) URL, a data URL such as 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU=', or the bare base64 of a picture"
)


def unreachable(param: str, formats: Sequence[Format]) -> PictureError:
    """The download failed; every cause reads the same, so that nobody can explore a network with it."""
    return PictureError(
        f"The picture at '{param}' could not be downloaded. Check that the URL is public, answers without a login and "
        f"returns a {_any_of(formats)}; or send the picture as a base64 data URL.",
        param=param,
        code="invalid_image_url",
    )


def unusable_url(param: str, fault: str) -> PictureError:
    """The URL was refused as it stands, before any lookup. `fault` goes on from "The URL"."""
    return PictureError(f"The URL at '{param}' {fault}.", param=param, code="invalid_image_url")


def unknown_source(param: str, formats: Sequence[Format]) -> PictureError:
    """The string is neither a URL nor base64."""
    return PictureError(
        f"The value at '{param}' is no picture: expected {_FORMS} ({_any_of(formats)}). Paths of files and other URL "
        "schemes are not read; send a file's content as base64.",
        param=param,
        code="invalid_image_url",
    )


def invalid_base64(param: str, got: str) -> PictureError:
    """The data URL cannot be decoded. `got` says what was found instead."""
    return PictureError(
        f"Invalid data URL at '{param}': expected a base64-encoded data URL with an image MIME type (e.g. "
        f"'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU='), but got {got}.",
        param=param,
        code="invalid_base64_image",
    )


def empty(param: str) -> PictureError:
    """There are no bytes."""
    return PictureError(f"The picture at '{param}' is empty: it has no bytes.", param=param, code="empty_image_file")


def too_many_bytes(param: str, limit: int) -> PictureError:
    """The encoded picture is over the limit, in bytes."""
    return PictureError(
        f"The picture at '{param}' is too large: its file may have at most {_size(limit)}. Send a smaller or more "
        "strongly compressed one.",
        param=param,
        code="image_file_too_large",
    )


def too_many_pixels(param: str, size: tuple[int, int], limit: int) -> PictureError:
    """The picture, of `size` (width, height), has more pixels than the limit."""
    return PictureError(
        f"The picture at '{param}' is too large: it may have at most {limit:,} pixels (width x height). It has "
        f"{size[0]} x {size[1]}.",
        param=param,
        code="image_too_large",
    )


def too_oblong(param: str, size: tuple[int, int], limit: int) -> PictureError:
    """One side, of `size` (width, height), is more than `limit` times the other."""
    return PictureError(
        f"The picture at '{param}' is too oblong: it has {size[0]} x {size[1]} pixels, and its longer side may be at "
        f"most {limit} times its shorter one.",
        param=param,
        code="image_too_large",
    )


def not_read(param: str, found: str, formats: Sequence[Format], advice: str = "") -> PictureError:
    """The bytes are in no format of `formats`. `found` begins the sentence and says what they are instead."""
    return PictureError(f"{found}. Send a {_any_of(formats)}{advice}.", param=param, code="invalid_image_format")


def damaged(param: str) -> PictureError:
    """The format is right, but the picture in it cannot be decoded."""
    return PictureError(
        f"The picture at '{param}' is damaged: it is cut off or cannot be decoded. Send an intact file.",
        param=param,
        code="image_parse_error",
    )


def too_laborious(param: str, what: str) -> PictureError:
    """The picture takes more to decode than its size allows; `what` of, such as "memory"."""
    return PictureError(
        f"The picture at '{param}' takes too much {what} to decode. Send it in a simpler form, such as a plain JPEG, "
        "or smaller.",
        param=param,
        code="image_parse_error",
    )


def _any_of(formats: Sequence[Format]) -> str:
    """The formats' names, such as "JPEG, PNG or WebP"."""
    *most, last = [NAMES[kind] for kind in formats] or ["picture"]
    return f"{', '.join(most)} or {last}" if most else last


def _size(count: int) -> str:
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} bytes"
