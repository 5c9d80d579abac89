"""What colours are, by the definitions of their spaces: the reference that pictures' colours are held to. And profiles.

Colours are arrays (..., 3) from 0 to 1. Written from the standards with numpy alone; no colour engine is used.

Sources: IEC 61966-2-1 (sRGB), SMPTE EG 432-1 (P3), ISO 22028-2 (ROMM, "ProPhoto"), Lam's Bradford adaptation,
CIE 15 (L*a*b*), ICC.1:2001-04 for the layout of profiles.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Curve = Callable[[Array], Array]

D50, D65 = (0.9642, 1.0, 0.8249), (0.95047, 1.0, 1.08883)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Space:
    """An RGB space: the chromaticities (x, y) of its primaries, its white (X, Y, Z), and what a level is in light."""

    primaries: tuple[tuple[float, float], ...]
    white: tuple[float, float, float]
    to_light: Curve

    def matrix(self) -> Array:
        """From light to XYZ under D50, 3 x 3; a column for each primary."""
        columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in self.primaries]).T
        native = columns * np.linalg.solve(columns, np.array(self.white))
        cone = np.diag((_BRADFORD @ D50) / (_BRADFORD @ self.white))
        return np.asarray(np.linalg.inv(_BRADFORD) @ cone @ _BRADFORD @ native)


def _srgb_to_light(level: Array) -> Array:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def power(exponent: float) -> Curve:
    """The curve of a plain gamma."""
    return lambda level: np.asarray(level**exponent)


_BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
SRGB = Space(_BT709, D65, _srgb_to_light)
DISPLAY_P3 = Space(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65, _srgb_to_light)
PROPHOTO = Space(((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105)), D50, power(1.8))
ADOBE_RGB = Space(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, power(563 / 256))
DIMMER = Space(_BT709, D65, lambda level: 0.994 * _srgb_to_light(level))  # sRGB, but for a level or two
LINEAR = Space(_BT709, D65, power(1.0))


def from_xyz(xyz: Array) -> Array:
    """XYZ under D50 in sRGB; what sRGB cannot show is cut off."""
    light = (xyz @ np.linalg.inv(SRGB.matrix()).T).clip(0, 1)
    return np.asarray(np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def in_srgb(levels: Array, space: Space) -> Array:
    """The colours of a space in sRGB."""
    return from_xyz(space.to_light(levels) @ space.matrix().T)


def from_lab(lab: Array) -> Array:
    """L*a*b* under D50 in XYZ."""
    y = (lab[..., 0] + 16) / 116
    roots = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    return np.asarray(np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * np.array(D50))


def from_inks(inks: Array) -> Array:
    """Plain inks (..., 4) on white paper: each lets through what it leaves of its colour, black of all."""
    return (1 - inks[..., :3]) * (1 - inks[..., 3:])


# --- profiles -------------------------------------------------------------------------------------------------------


def matrix_profile(space: Space, *, kind: bytes = b"mntr", points: int = 1024) -> bytes:
    """An ICC profile of the space: its matrix, and its curve as a table."""
    table = (space.to_light(np.linspace(0, 1, points)) * 65535).round().astype(">u2").tobytes()
    curve = b"curv" + bytes(4) + struct.pack(">I", points) + table
    columns = [b"XYZ " + bytes(4) + _fixed(*column) for column in space.matrix().T]
    tags = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True))
    return _profile(b"RGB ", b"XYZ ", kind, {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def lab_of_inks(inks: Array) -> Array:
    """The made-up press of `ink_profile`: L*a*b* of inks (..., 4), linear in each, from white to black."""
    paper, each = np.array([100.0, 0.0, 0.0]), np.array([[-18, -30, -28], [-24, 40, -4], [-6, -10, 32], [-52, 0, 0]])
    return np.asarray(paper + inks @ each)


def ink_profile() -> bytes:
    """An ICC profile of that press: a table of two points for each ink, which is exact for what is linear."""
    corners = lab_of_inks(np.array(list(product((0.0, 1.0), repeat=4))))
    levels = np.stack([corners[:, 0] * 652.8, *((corners[:, at] + 128) * 256 for at in (1, 2))], axis=-1)
    identity, line = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1), struct.pack(">2H", 0, 65535)
    head = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    return _profile(b"CMYK", b"Lab ", b"prtr", {
        b"A2B0": head + line * 4 + levels.round().astype(">u2").tobytes() + line * 3
    })  # fmt: skip


def _profile(colours: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78)
    everything = {b"desc": text, b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50), **tags}
    at, table, body = 128 + 4 + 12 * len(everything), b"", b""
    for name, content in everything.items():
        padded = content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += padded
    head = struct.pack(">I4sI4s4s4s12s4s28x", at + len(body), bytes(4), 0x02400000, kind, colours, connection,
                       bytes(12), b"acsp") + _fixed(*D50)  # fmt: skip
    return head.ljust(128, b"\0") + struct.pack(">I", len(everything)) + table + body


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))
