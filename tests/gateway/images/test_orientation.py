"""Reading the orientation out of EXIF, intact or not."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.images.orientation import read_orientation


def exif(*entries: tuple[int, int, int, int], order: str = "<", start: int = 8) -> bytes:
    """An EXIF block whose first directory, at byte `start`, has the entries (tag, type, count, short value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    directory = b"".join(struct.pack(order + "HHIHH", *entry, 0) for entry in entries)
    return head.ljust(start, b"\0") + struct.pack(order + "H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_the_orientation_is_found(value: int, order: str, prefix: bytes) -> None:
    """In both byte orders, with and without JPEG's prefix, among other entries, wherever the directory lies."""
    block = exif((0x010F, 2, 9, 26), (0x0112, 3, 1, value), (0x0213, 3, 1, 1), order=order, start=20)
    assert read_orientation(prefix + block) == value


@pytest.mark.parametrize(
    "block",
    [
        b"", b"Exif\0\0", b"II*\0", b"nonsense" * 4, exif(), exif((0x0112, 3, 1, 0)), exif((0x0112, 3, 1, 9)),
        exif((0x0112, 3, 1, 65535)), exif((0x0112, 2, 1, 6)), exif((0x0112, 3, 2, 6)), exif((0x0112, 4, 1, 6)),
        exif((0x0112, 3, 1, 6))[:18], b"II*\0\xff\xff\xff\xff", b"II*\0\0\0\0\0",
        b"MM*\0" + exif((0x0112, 3, 1, 6))[4:],
        b"II*\0\x08\0\0\0\xff\xff" + bytes(64),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_ignored(block: bytes) -> None:
    """A value outside 1 to 8, of the wrong type, or a broken block leaves the picture as it is."""
    assert read_orientation(block) == 1


@given(st.sampled_from([b"II*\0", b"MM\0*", b""]), st.binary(max_size=200))
def test_no_block_is_an_error(head: bytes, rest: bytes) -> None:
    """Whatever the bytes, an orientation comes out."""
    assert read_orientation(head + rest) in range(1, 9)
