"""Which way up a picture is, from its EXIF block. Pure: no I/O.

Our own reader, since Pillow's parses every directory of the block and reads XMP besides; a dozen bytes of the first
directory are all that is needed here.

Source: Exif 2.32 (CIPA DC-008), 4.6.4 A, tag 274; TIFF 6.0, section 2.
"""

import struct

UPRIGHT = 1
TURNED = 5  # from here on, width and height change places

_TAG = 0x0112
_SHORT = 3
_ENTRY = 12  # bytes
_MOST_ENTRIES = 512  # that are looked at: cameras write a few dozen
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


def read_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8; upright (1) when the block does not say, says something else or is broken."""
    block = exif.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return UPRIGHT
    try:
        value = _find(block, order)
    except struct.error:
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT


def _find(block: bytes, order: str) -> int:
    """The tag's value in the first directory, 0 if it is not there; struct.error where the block is cut off."""
    (start,) = struct.unpack_from(order + "I", block, 4)
    (entries,) = struct.unpack_from(order + "H", block, start)
    for at in range(start + 2, start + 2 + min(entries, _MOST_ENTRIES) * _ENTRY, _ENTRY):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", block, at)
        if tag == _TAG:
            return int(value) if (kind, count) == (_SHORT, 1) else 0
    return 0
