"""What is to become of a picture, decided from its header and the model's way with pictures. Pure: no I/O.

A model brings every picture to a size of its own. Where that size is known, the picture is brought there at once, with
the model's own filter, so that the model's resize finds nothing to do.

    rule         what the model makes of a picture             what we make of it
    square       a square, whatever the picture's shape        the square
    tiles        a grid of square tiles, and a thumbnail       the grid, where the picture is no smaller
    multiples    sides that are multiples, bounded pixels      those sides, where the picture has more pixels
    (none)       nobody knows                                  whole blocks averaged, far above what is ample

On the way there, `fast` decodes JPEGs at a fraction of their size and averages blocks. `exact` filters every pixel, but
for JPEGs so large that decoding them at a fraction changes next to nothing. `off` leaves the size alone. Whatever the
mode, no side of an engine's picture is under `MIN_SIDE`.

Sources: the image processors of BLIP, BLIP-2, Gemma 3, GOT-OCR 2 (InternVL3's) and Qwen2-VL in Transformers 5.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Literal

from msgspec import Struct

from gateway.images.header import Format, Header
from gateway.images.orientation import TURNED, UPRIGHT

PIPELINE_VERSION = 3  # raise it when something changes what engines get to see
MIN_SIDE = 32  # pixels; some processors fail on less, or take a picture of three rows for one of three colours
MARGIN = 5 / 3  # times what is wanted; decoded smaller, JPEGs of much detail change by over 3 levels in many places
AMPLE = 2  # times what is wanted; to stay larger than that changes less than JPEG's own noise does

Resize = Literal["fast", "exact", "off"]
Rule = Literal["square", "tiles", "multiples"]
Filter = Literal["bicubic", "bilinear"]
Size = tuple[int, int]  # width and height, in pixels

_SCALES = (8, 4, 2)
_UPRIGHT_BY_DECODER = frozenset[Format](["heic", "tiff"])
# What decoding was seen to take for each pixel, at most, in bytes; a half of WebP's is its decoder's own.
_DECODED: dict[Format, int] = {
    "jpeg": 5, "png": 8, "webp": 20, "gif": 7, "avif": 12, "heic": 12, "tiff": 9, "bmp": 7,
}  # fmt: skip
_DEEP: dict[Format, int] = {"avif": 8, "heic": 8}  # bytes more where samples have over eight bits
_PIXEL = 4  # bytes that Pillow takes for one
_LAID_ON_WHITE = 8  # bytes more for each pixel of a picture with transparency
_SEVERAL_PASSES = 8  # bytes for each pixel of a progressive JPEG: all of it is kept to the last one
_WRITTEN = 10  # bytes for each pixel of the result: turned, and packed into its file
_FIXED = 4 * 2**20  # bytes for any picture


class Sizing(Struct, frozen=True):
    """A model's way with pictures.

    `side` is that of the square or of a tile, what sides are multiples of, or, without a rule, what is surely ample.
    `tiles` and `pixels` are the most that a picture may have after it, for the rules of those names.
    """

    rule: Rule | None
    side: int
    filter: Filter = "bicubic"
    tiles: int = 12
    pixels: int | None = None


class Plan(Struct, frozen=True):
    """What is to be done to a picture.

    It has `stored` pixels when it is decoded in full. Decoding divides that by `scale`, averaging blocks by `factor`;
    what is then not of `size`, the final one with the picture upright, is resized with `filter`, where None makes a
    block of every pixel.
    """

    stored: Size
    orientation: int
    size: Size
    scale: int = 1
    factor: int = 1
    filter: Filter | None = None

    @property
    def unturned(self) -> Size:
        """The final size before the picture is turned upright."""
        return self.size if self.orientation < TURNED else self.size[::-1]


def plan(header: Header, sizing: Sizing, resize: Resize) -> Plan:
    """The plan for a picture and a model."""
    final = _final(header.size, sizing) if resize != "off" else None
    if final is not None:
        return _filtered(header, final, sizing.filter, resize)
    is_averaged = resize != "off" and sizing.rule is None
    return _averaged(header, int(_ratio(header.size, (sizing.side, sizing.side)) / AMPLE) if is_averaged else 1)


def decoded_bytes(header: Header, plan: Plan) -> int:
    """How much memory the work takes at its height, in bytes, the result included."""
    width, height = _divided(plan.stored, plan.scale)
    deep = _DEEP.get(header.format, 0) if header.bits > 8 else 0  # noqa: PLR2004 - bits of a byte
    decoded = width * height * (_DECODED[header.format] + deep + (_LAID_ON_WHITE if header.alpha else 0))
    passes = math.prod(plan.stored) * _SEVERAL_PASSES if header.format == "jpeg" and header.progressive else 0
    narrowed = plan.unturned[0] * height * _PIXEL  # the filter works on one direction first
    return decoded + passes + narrowed + math.prod(plan.size) * _WRITTEN + _FIXED


def most_decoded(formats: Iterable[Format], pixels: int) -> int:
    """How much memory decoding a picture of so many pixels may take in any of the formats, in bytes."""
    passes = {"jpeg": _SEVERAL_PASSES}
    return pixels * max(_DECODED[kind] + passes.get(kind, _LAID_ON_WHITE) for kind in formats) + _FIXED


def pipeline(resize: Resize) -> str:
    """Names everything of ours that changes pixels, for keys of answers and names of pictures."""
    return f"{PIPELINE_VERSION}-{resize}"


def note(header: Header, plan: Plan, resize: Resize) -> str:
    """What is done, in a line: `4032x3024 jpeg exif=6 -> 896x896 fast`."""
    turned = f" exif={header.orientation}" if header.orientation != UPRIGHT else ""
    return f"{_text((header.width, header.height))} {header.format}{turned} -> {_text(plan.size)} {resize}"


# --- what models make of pictures -----------------------------------------------------------------------------------


def seen(size: Size, sizing: Sizing) -> Size | None:
    """What the model makes of an upright picture, None where nobody knows."""
    match sizing.rule:
        case "square":
            return sizing.side, sizing.side
        case "tiles":
            columns, rows = _grid(size, sizing.side, sizing.tiles)
            return columns * sizing.side, rows * sizing.side
        case "multiples":
            return _multiples(size, sizing.side, sizing.pixels)
        case None:
            return None


def _grid(size: Size, tile: int, most: int) -> tuple[int, int]:
    """Columns and rows: of the grids nearest in shape, the last whose tiles have less than twice the picture's area."""
    width, height = size
    best, nearest = (1, 1), math.inf
    for columns, rows in _grids(most):
        distance = abs(width / height - columns / rows)
        fits = 2 * width * height > tile * tile * columns * rows
        if distance < nearest or (distance == nearest and fits):
            best, nearest = (columns, rows), distance
    return best


@cache
def _grids(most: int) -> list[tuple[int, int]]:
    """Every grid of up to so many tiles, those with fewer first."""
    sides = range(1, most + 1)
    grids = ((columns, rows) for columns in sides for rows in sides if columns * rows <= most)
    return sorted(grids, key=math.prod)


def _multiples(size: Size, step: int, most: int | None) -> Size:
    """Sides that are multiples of `step`, with at most so many pixels; a picture that has no more is left to itself."""
    width, height = size
    if most is None or width * height <= most:
        return size
    wide, high = round(width / step) * step, round(height / step) * step
    if wide * high > most:
        shrinking = math.sqrt(width * height / most)
        wide, high = (max(step, math.floor(side / shrinking / step) * step) for side in size)
    return wide, high


# --- sizes ----------------------------------------------------------------------------------------------------------


def _final(size: Size, sizing: Sizing) -> Size | None:
    """The size at which the model's own resize does nothing, None where it is unknown or would enlarge the picture.

    Into a square pictures are enlarged as well: then the model's engine gets one size only.
    """
    final = seen(size, sizing)
    if final is None or min(final) < MIN_SIDE or seen(final, sizing) != final:
        return None
    return final if sizing.rule == "square" or _ratio(size, final) >= 1 else None


def _filtered(header: Header, final: Size, filter_: Filter, resize: Resize) -> Plan:
    ratio = _ratio(header.size, final)
    scale = _scale(header, ratio / (MARGIN if resize == "fast" else AMPLE))
    factor = int(ratio / scale / AMPLE) if resize == "fast" else 1
    return Plan(*_decoded(header), final, scale, max(1, factor), filter_)


def _averaged(header: Header, blocks: int) -> Plan:
    scale = _scale(header, blocks)
    factor = max(1, blocks // scale)
    return Plan(*_decoded(header), _enlarged(_divided(_divided(header.size, scale), factor)), scale, factor)


def _decoded(header: Header) -> tuple[Size, int]:
    """The size of the picture as it comes out of its decoder, and its orientation then."""
    if header.format in _UPRIGHT_BY_DECODER:
        return header.size, UPRIGHT
    return (header.width, header.height), header.orientation


def _scale(header: Header, most: float) -> int:
    """By how much a picture's sides can be divided in decoding, up to `most`."""
    return next((scale for scale in _SCALES if scale <= most), 1) if header.format == "jpeg" else 1


def _enlarged(size: Size) -> Size:
    """The size, by a whole number times larger where a side is too small for some model."""
    times = math.ceil(MIN_SIDE / min(size))
    return size[0] * times, size[1] * times


def _ratio(size: Size, other: Size) -> float:
    """How many times larger the sides are, in the direction in which they are less so."""
    return min(size[0] / other[0], size[1] / other[1])


def _divided(size: Size, by: int) -> Size:
    return -(-size[0] // by), -(-size[1] // by)


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
