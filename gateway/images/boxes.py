"""What AVIF and HEIC say of their picture in their boxes: its size, its depth, which way up it is. Pure: no I/O.

Only the properties of the primary picture are looked at. Nothing is allocated, and nothing repeated, by what the file
says: every step moves on inside the bytes that are there, and there is a most of steps.

Source: ISO/IEC 14496-12 (boxes) and 23008-12 (items and their properties).
"""

import struct
from collections.abc import Iterator

from msgspec import Struct

_MOST_BOXES = 1024  # a picture's boxes, its properties included
_EXTENDED, _TO_THE_END = 1, 0  # what a length of a box can be beside a length
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1")
_TURNS = {0: (1, 4, 2), 1: (8, 5, 7), 2: (3, 2, 4), 3: (6, 7, 5)}  # by angle: not mirrored, by axis 0, by axis 1

Box = tuple[bytes, int, int]  # its name, where its content begins and where it ends


class Facts(Struct, frozen=True):
    """What was found. `orientation` is as in EXIF, 1 to 8; width and height are before it is applied.

    `clean` are the width and height of the part that is meant to be seen, where not all of the picture is.
    """

    width: int
    height: int
    clean: tuple[int, int]
    bits: int
    alpha: bool
    profile: bool
    orientation: int


def read(data: bytes) -> Facts:
    """What the file says of its primary picture.

    Raises:
        ValueError, struct.error: there is none, or its boxes make no sense.
    """
    meta = _find(data, b"meta", 0, len(data))
    inside = dict(_named(data, meta[1] + 4, meta[2]))
    properties = dict(_named(data, *inside[b"iprp"]))
    listed = list(_boxes(data, *properties[b"ipco"]))
    # A sequence may do without a primary picture. Its properties are then those of what is listed first.
    primary = _primary(data, inside[b"pitm"][0]) if b"pitm" in inside or data[8:12] != b"avis" else None
    own = _associated(data, properties[b"ipma"][0], primary)
    return _facts(data, [listed[at - 1] for at in own if 0 < at <= len(listed)], listed)


def _facts(data: bytes, own: list[Box], listed: list[Box]) -> Facts:
    by_name = {name: (start, end) for name, start, end in own}
    width, height = struct.unpack_from(">II", data, by_name[b"ispe"][0] + 4)
    angle = data[by_name[b"irot"][0]] & 3 if b"irot" in by_name else 0
    mirror = 1 + (data[by_name[b"imir"][0]] & 1) if b"imir" in by_name else 0
    bits = data[by_name[b"pixi"][0] + 5] if b"pixi" in by_name else 8
    colour = by_name.get(b"colr", (0, 0))[0]
    alpha = any(name == b"auxC" and data.startswith(_ALPHA, start + 4) for name, start, _ in listed)
    profile = colour > 0 and data[colour : colour + 4] in (b"prof", b"rICC")
    clean = _clean(data, by_name[b"clap"][0]) if b"clap" in by_name else (width, height)
    return Facts(width, height, clean, bits, alpha, profile, _TURNS[angle][mirror])


def _clean(data: bytes, at: int) -> tuple[int, int]:
    """Width and height in the content of the box `clap`, each of which is a fraction."""
    width, of_width, height, of_height = struct.unpack_from(">IIII", data, at)
    if not (of_width and of_height):
        raise ValueError("a part of nothing")
    return round(width / of_width), round(height / of_height)


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes that lie between two places."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == _EXTENDED:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        following = end if length == _TO_THE_END else start + length
        if not content <= following <= end:
            raise ValueError("a box ends outside of what it lies in")
        yield name, content, following
        start = following
    raise ValueError("there are too many boxes")


def _named(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    return ((name, (begins, ends)) for name, begins, ends in _boxes(data, start, end))


def _find(data: bytes, wanted: bytes, start: int, end: int) -> Box:
    found = next((box for box in _boxes(data, start, end) if box[0] == wanted), None)
    if found is None:
        raise ValueError("a box is missing")
    return found


def _primary(data: bytes, at: int) -> int:
    """The number of the primary picture, from the content of the box `pitm`."""
    return int(struct.unpack_from(">I" if data[at] else ">H", data, at + 4)[0])


def _associated(data: bytes, at: int, wanted: int | None) -> list[int]:
    """The numbers, from 1, of a picture's properties (None: of the first's), from the content of the box `ipma`."""
    version, long = data[at], data[at + 3] & 1
    (entries,) = struct.unpack_from(">I", data, at + 4)
    at += 8
    for _ in range(min(entries, _MOST_BOXES)):
        (item,) = struct.unpack_from(">I" if version else ">H", data, at)
        at += 4 if version else 2
        count, step = data[at], 2 if long else 1
        at += 1
        if item == wanted or wanted is None:
            form, mask = (f">{count}H", 0x7FFF) if long else (f">{count}B", 0x7F)
            return [number & mask for number in struct.unpack_from(form, data, at)]
        at += count * step
    raise ValueError("the primary picture has no properties")
