"""Colours as their profile means them, brought to sRGB, the one space that models know. For the decoding worker only.

Only profiles that matter are applied: those of inks, and those under which some colour looks different. A profile that
is too large, not for the picture's mode, or broken, is ignored, as viewers do.

Source: ICC.1:2022, 7.2 (the header of a profile).
"""

import struct
from functools import cache, lru_cache
from io import BytesIO
from itertools import product

from PIL import Image, ImageChops, ImageCms

MAX_PROFILE = 4 * 2**20  # bytes; those of printing presses have up to two million

_HEADER = struct.Struct(">I8x4s4s16x4s")  # its size, its class, its colours, its signature
_CLASSES = frozenset([b"mntr", b"scnr", b"prtr", b"spac"])
_COLOURS = {"RGB": b"RGB ", "CMYK": b"CMYK"}
_UNSEEN = 2  # levels by which no colour may change under a profile that is left out
_SHADES = (0, 16, 64, 128, 192, 255)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in RGB. `image` is grey, RGB or CMYK; CMYK without a usable profile is taken as plain inks."""
    transform = _transform(profile, image.mode) if profile and _fits(profile, image.mode) else None
    if transform is not None:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _fits(profile: bytes, mode: str) -> bool:
    """Whether it is a profile for pictures of the mode, by its header."""
    if not _HEADER.size <= len(profile) <= MAX_PROFILE:
        return False
    size, kind, colours, signature = _HEADER.unpack_from(profile)
    return size <= len(profile) and kind in _CLASSES and colours == _COLOURS.get(mode) and signature == b"acsp"


@lru_cache(maxsize=8)  # cameras and screens have few, and making one takes as long as a small picture
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What brings colours to sRGB, None where that changes nothing or cannot be had."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        made = ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB", intent=ImageCms.Intent.PERCEPTUAL)
        return made if mode == "CMYK" or _is_seen(made) else None
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _is_seen(transform: ImageCms.ImageCmsTransform) -> bool:
    colours = _colours()
    changes = ImageChops.difference(colours, transform.apply(colours)).getextrema()
    return any(most > _UNSEEN for _, most in changes)  # type: ignore[misc]


@cache
def _colours() -> Image.Image:
    """A picture of colours from all over the cube."""
    shades = bytes(value for colour in product(_SHADES, repeat=3) for value in colour)
    return Image.frombytes("RGB", (len(_SHADES) ** 3, 1), shades)
