"""Which formats can be decoded here: most decoders come with Altgate, some are an extra."""

from collections.abc import Sequence
from importlib.util import find_spec

from gateway.images.sniff import Format

_EXTRAS: dict[Format, str] = {"heic": "pillow_heif"}  # modules that are not installed with us


def missing(formats: Sequence[Format]) -> list[Format]:
    """Those of the formats whose decoder is not installed."""
    return [kind for kind in formats if kind in _EXTRAS and find_spec(_EXTRAS[kind]) is None]


def readable(formats: Sequence[Format]) -> list[Format]:
    """Those of the formats whose decoder is installed."""
    lacking = missing(formats)
    return [kind for kind in formats if kind not in lacking]
