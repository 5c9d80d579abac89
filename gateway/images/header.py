"""What a picture's file says of itself, read by us before any decoder sees it. Pure: no I/O.

Nothing is allocated, and nothing repeated, by what a file says: every step moves on inside the bytes that are there,
and there is a most of steps. So a file that claims 13,000 x 13,000 pixels costs microseconds.

Sources: ITU-T T.81 annex B (JPEG), the PNG specification, third edition, the WebP container specification, GIF89a,
TIFF 6.0, Microsoft's documentation of BITMAPINFOHEADER; `boxes` for AVIF and HEIC.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal

from msgspec import Struct

from gateway.images import boxes
from gateway.images.orientation import UPRIGHT, read_orientation
from gateway.images.sniff import Format, sniff

__all__ = ["Format", "Header", "HeaderError", "read"]

Colours = Literal["grey", "rgb", "palette", "cmyk"]

_MOST_STEPS = 4096  # segments, blocks or tags that are looked at: more than any camera or editor writes
_CHUNK = 4 * 2**10  # bytes for which a PNG may have one more, since its pixels may lie in many
_LONGEST_EXIF = 64 * 2**10  # bytes that are looked at
_TURNED = 5  # from this orientation on, width and height change places


class HeaderError(ValueError):
    """The header is cut off, makes no sense or is of no format of ours."""


class Header(Struct, frozen=True):
    """What a file says of its first picture.

    `width` and `height` are as they are stored, `size` as the picture is looked at. `bits` are those of a sample.
    `alpha` is set for a transparent colour, too. `progressive` means several passes over the picture, interlacing
    included; `adobe` is the transform in a JPEG's marker of that name, None without one.
    """

    format: Format
    width: int
    height: int
    colours: Colours = "rgb"
    bits: int = 8
    alpha: bool = False
    progressive: bool = False
    animated: bool = False
    orientation: int = UPRIGHT
    profile: bool = False
    adobe: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture standing upright."""
        upright = self.orientation < _TURNED
        return (self.width, self.height) if upright else (self.height, self.width)


def read(data: bytes) -> Header:
    """The header of a picture in any of the formats, whether or not it is enabled.

    Raises:
        HeaderError: the bytes are no picture, or their header cannot be read or claims no pixels.
    """
    kind = sniff(data)
    if kind is None:
        raise HeaderError("this is no picture")
    try:
        header = _READERS[kind](data)
    except HeaderError:
        raise
    except (struct.error, LookupError, ValueError):
        raise HeaderError("the header is cut off or makes no sense") from None
    if header.width < 1 or header.height < 1:
        raise HeaderError("the picture has no pixels")
    return header


# --- JPEG -----------------------------------------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_MOST_JUNK = 2**16  # bytes between segments, which some editors leave and all decoders skip
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset([0xC2, 0xC6, 0xCA, 0xCE])
_SCAN, _EXIF, _PROFILE, _ADOBE = 0xDA, 0xE1, 0xE2, 0xEE
_JPEG_COLOURS: dict[int, Colours] = {1: "grey", 3: "rgb", 4: "cmyk"}


def _jpeg(data: bytes) -> Header:
    frame: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for marker, start, end in _segments(data):
        if marker in _FRAMES and not frame:
            bits, height, width, components = struct.unpack_from(">BHHB", data, start)
            frame = {"width": width, "height": height, "bits": bits, "colours": _JPEG_COLOURS[components]}
            rest["progressive"] = marker in _PROGRESSIVE
        elif marker == _SCAN and frame:
            rest["progressive"] |= data[start] < components  # the others come in passes of their own
        elif marker == _EXIF and "orientation" not in rest and data.startswith(b"Exif\0\0", start):
            rest["orientation"] = _orientation(data, start, end)
        elif marker == _PROFILE and data.startswith(b"ICC_PROFILE\0", start):
            rest["profile"] = True
        elif marker == _ADOBE and data.startswith(b"Adobe", start) and end - start >= 12:  # noqa: PLR2004 - its length
            rest["adobe"] = data[start + 11]
    return Header("jpeg", **frame, **rest) if frame else _missing()


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """A JPEG's segments, its first scan the last: the marker, where the content begins and where it ends."""
    at, junk = 2, _MOST_JUNK
    for _ in range(_MOST_STEPS):
        found = _MARKER.search(data, at, at + junk)
        if found is None:
            raise HeaderError("a marker is missing")
        junk -= found.start() - at
        marker, at = found[1][0], found.end()
        if marker in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2 or at + length > len(data):  # noqa: PLR2004 - the length counts its own two bytes
            raise HeaderError("a segment is cut off")
        yield marker, at + 2, at + length
        if marker == _SCAN:
            return
        at += length
    raise HeaderError("there are too many segments")


# --- PNG ------------------------------------------------------------------------------------------------------------

_PNG_COLOURS: dict[int, Colours] = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}
_WITH_ALPHA = 4
_DEPTHS = frozenset([1, 2, 4, 8, 16])
_chunk_at = struct.Struct(">I4s").unpack_from


def _png(data: bytes) -> Header:
    length, name, width, height, bits, colour, _, _, interlaced = struct.unpack_from(">I4sIIBBBBB", data, 8)
    if (length, name) != (13, b"IHDR") or bits not in _DEPTHS:
        raise HeaderError("the first chunk is no header")
    chunks = _chunks(data)
    exif = chunks.get(b"eXIf")
    return Header(
        "png",
        width=width,
        height=height,
        colours=_PNG_COLOURS[colour],
        bits=bits,
        alpha=bool(colour & _WITH_ALPHA) or b"tRNS" in chunks,
        progressive=bool(interlaced),
        animated=b"acTL" in chunks,
        orientation=_orientation(data, *exif) if exif else UPRIGHT,
        profile=b"iCCP" in chunks,
    )


def _chunks(data: bytes) -> dict[bytes, tuple[int, int]]:
    """A PNG's chunks up to its end, by name: where the content of the last of each begins and where it ends."""
    chunks: dict[bytes, tuple[int, int]] = {}
    at, end = 8, len(data)
    for _ in range(_MOST_STEPS + end // _CHUNK):
        if at + 12 > end:
            break
        length, name = _chunk_at(data, at)
        chunks[name] = at + 8, min(at + 8 + length, end)
        if name == b"IEND":
            break
        at += 12 + length
    else:
        raise HeaderError("there are too many chunks")
    if b"IDAT" not in chunks:
        raise HeaderError("there are no pixels")
    return chunks


# --- WebP -----------------------------------------------------------------------------------------------------------

_ANIMATED, _ALPHA_FLAG, _PROFILE_FLAG = 0x02, 0x10, 0x20


def _webp(data: bytes) -> Header:
    name = data[12:16]
    if name == b"VP8X":
        return _extended_webp(data)
    if name == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise HeaderError("the frame does not begin as it should")
        return Header("webp", width & 0x3FFF, height & 0x3FFF)
    if name == b"VP8L" and data[20] == 0x2F:  # noqa: PLR2004 - the signature
        (word,) = struct.unpack_from("<I", data, 21)
        return Header("webp", (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1, alpha=bool(word >> 28 & 1))
    return _missing()


def _extended_webp(data: bytes) -> Header:
    flags, low, high = struct.unpack_from("<B3x3s3s", data, 20)
    exif = next(((start, end) for name, start, end in _riff(data) if name == b"EXIF"), None)
    return Header(
        "webp",
        int.from_bytes(low, "little") + 1,
        int.from_bytes(high, "little") + 1,
        alpha=bool(flags & _ALPHA_FLAG),
        animated=bool(flags & _ANIMATED),
        orientation=_orientation(data, *exif) if exif else UPRIGHT,
        profile=bool(flags & _PROFILE_FLAG),
    )


def _riff(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 12
    for _ in range(_MOST_STEPS):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, min(at + 8 + length, len(data))
        at += 8 + length + (length & 1)


# --- GIF ------------------------------------------------------------------------------------------------------------

_EXTENSION, _IMAGE, _CONTROL, _APPLICATION = 0x21, 0x2C, 0xF9, 0xFF
_LOOPING = (b"NETSCAPE2.0", b"ANIMEXTS1.0")


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table(flags)
    alpha = animated = False
    steps = iter(range(_MOST_STEPS))  # of extensions and the blocks in them together
    for _ in steps:
        if data[at] == _IMAGE:
            left, top, across, down = struct.unpack_from("<HHHH", data, at + 1)
            # A decoder makes room for a first frame that reaches over the screen.
            return Header(
                "gif", max(width, left + across), max(height, top + down), "palette", alpha=alpha, animated=animated
            )
        if data[at] != _EXTENSION:
            break
        label = data[at + 1]
        alpha = alpha or (label == _CONTROL and bool(data[at + 3] & 1))
        animated = animated or (label == _APPLICATION and data.startswith(_LOOPING, at + 3))
        at = _after_blocks(data, at + 2, steps)
    return _missing()


def _table(flags: int) -> int:
    """The length of a table of colours, in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int, steps: Iterator[int]) -> int:
    for _ in steps:
        length = data[at]
        at += 1 + length
        if length == 0:
            return at
    raise HeaderError("there are too many blocks")


# --- AVIF, HEIC, TIFF, BMP --------------------------------------------------------------------------------------------


def _avif(data: bytes) -> Header:
    return _boxed("avif", data)


def _heic(data: bytes) -> Header:
    return _boxed("heic", data)


def _boxed(kind: Format, data: bytes) -> Header:
    facts = boxes.read(data)
    # What lies outside of the clean aperture is cut off by the decoder of the one, and shown by that of the other.
    width, height = facts.clean if kind == "heic" else (facts.width, facts.height)
    return Header(
        kind,
        width,
        height,
        bits=facts.bits,
        alpha=facts.alpha,
        animated=data[8:12] in (b"avis", b"msf1"),
        orientation=facts.orientation,
        profile=facts.profile,
    )


_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _EXTRA, _ICC = 256, 257, 258, 262, 274, 338, 34675
_TIFF_SIZES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4)}  # by type: byte, short, long
_TIFF_COLOURS: dict[int, Colours] = {0: "grey", 1: "grey", 3: "palette", 5: "cmyk"}


def _tiff(data: bytes) -> Header:
    tags = dict(_tags(data))
    return Header(
        "tiff",
        tags[_WIDTH],
        tags[_HEIGHT],
        _TIFF_COLOURS.get(tags.get(_PHOTOMETRIC, 2), "rgb"),
        bits=tags.get(_BITS, 1),
        alpha=_EXTRA in tags,
        orientation=turn if (turn := tags.get(_ORIENTATION, UPRIGHT)) in range(1, 9) else UPRIGHT,
        profile=_ICC in tags,
    )


def _tags(data: bytes) -> Iterator[tuple[int, int]]:
    """The tags of the first directory, each with the first of its values; 0 for a value that is no number."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, start)
    for at in range(start + 2, start + 2 + min(entries, _MOST_STEPS) * 12, 12):
        tag, kind, count, where = struct.unpack_from(order + "HHII", data, at)
        code, size = _TIFF_SIZES.get(kind, ("", 1))
        place = at + 8 if count * size <= 4 else where  # noqa: PLR2004 - bytes that fit where the place would stand
        yield tag, int(struct.unpack_from(order + code, data, place)[0]) if code else 0


_CORE = 12  # bytes of the oldest header


def _bmp(data: bytes) -> Header:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height, _, bits = struct.unpack_from("<HHHH" if length == _CORE else "<iiHH", data, 18)
    colours: Colours = "palette" if bits <= 8 else "rgb"  # noqa: PLR2004 - bits of a pixel
    return Header("bmp", width, abs(height), colours, alpha=bits == 32)  # noqa: PLR2004


def _orientation(data: bytes, start: int, end: int) -> int:
    return read_orientation(data[start : min(end, start + _LONGEST_EXIF)])


def _missing() -> Header:
    raise HeaderError("the picture's size is not where it should be")


_READERS: dict[Format, Callable[[bytes], Header]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "gif": _gif,
    "avif": _avif,
    "heic": _heic,
    "tiff": _tiff,
    "bmp": _bmp,
}
