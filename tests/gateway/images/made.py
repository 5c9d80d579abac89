"""Pictures for tests, whole and hostile: made by us byte for byte, or by Pillow, and never shipped."""

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO

from PIL import Image
from pillow_heif import register_heif_opener

from gateway.images.sniff import Format

WRITABLE: tuple[Format, ...] = ("jpeg", "png", "webp", "gif", "avif", "heic", "tiff", "bmp")
DEFAULT: tuple[Format, ...] = ("jpeg", "png", "webp", "gif", "avif")


register_heif_opener()  # so that Pillow can write what we read


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture's file."""
    target = BytesIO()
    image.save(target, "HEIF" if kind.upper() == "HEIC" else kind, **options)
    return target.getvalue()


def noise(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """A picture of noise, so that cutting it anywhere hurts."""
    return saved(Image.effect_noise(size, 80).convert("RGB"), kind, **options)


PICTURES: dict[Format, bytes] = {kind: noise(kind) for kind in WRITABLE}


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    size: tuple[int, int],
    *,
    depth: int = 8,
    color: int = 0,
    interlaced: int = 0,
    compression: int = 0,
    data: bytes | None = None,
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
) -> bytes:
    """A PNG from its header fields, chunks and compressed rows; without rows it has those that its size needs."""
    if data is None:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
        data = zlib.compress((b"\0" + bytes((size[0] * samples * depth + 7) // 8)) * size[1], 9)
    header = struct.pack(">IIBBBBB", *size, depth, color, compression, 0, interlaced)
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", data), *after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(side: int) -> bytes:
    """A square PNG of one bit a pixel, all of it there: 13,000 pixels a side take 20 kilobytes."""
    row = b"\0" + bytes((side + 7) // 8)
    packer = zlib.compressobj(9)
    packed = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()
    return png((side, side), depth=1, data=packed)


def jpeg_of(width: int, height: int, data: bytes | None = None, marker: bytes = b"\xff\xc0") -> bytes:
    """A JPEG whose frame, which begins with that marker, claims another size than its data has."""
    changed = bytearray(PICTURES["jpeg"] if data is None else data)
    at = changed.index(marker)
    changed[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(changed)


def separate_scans(width: int, height: int) -> bytes:
    """A grey JPEG, baseline, whose three components have a scan each: a zero for every block of 8 x 8."""
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + b"".join(bytes([at, 0x11, 0]) for at in (1, 2, 3))
    tables = b"".join(b"\xff\xc4" + struct.pack(">HBB", 20, kind, 1) + bytes(16) for kind in (0x00, 0x10))
    rows = bytes((-(-width // 8) * -(-height // 8) * 2 + 7) // 8)
    scans = b"".join(b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, at, 0, 0, 63, 0) + rows for at in (1, 2, 3))
    quantisation = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\1" * 64
    return b"\xff\xd8" + quantisation + b"\xff\xc0" + frame + tables + scans + b"\xff\xd9"


def gif_of(width: int, height: int) -> bytes:
    """A GIF whose screen claims another size than its frame."""
    return PICTURES["gif"][:6] + struct.pack("<HH", width, height) + PICTURES["gif"][10:]


def gif_frame_of(width: int, height: int) -> bytes:
    """A GIF whose first frame reaches over its screen."""
    at = PICTURES["gif"].index(b",\0\0\0\0")
    return PICTURES["gif"][: at + 5] + struct.pack("<HH", width, height) + PICTURES["gif"][at + 9 :]


def animated(kind: str, frames: int = 3, size: tuple[int, int] = (40, 30)) -> bytes:
    """An animation that begins with red."""
    pictures = [Image.new("RGB", size, color) for color in ("red", "lime", "blue")]
    rest = [pictures[1 + at % 2] for at in range(frames - 1)]
    return saved(pictures[0], kind, save_all=True, append_images=rest, **({"duration": 10} if kind != "AVIF" else {}))


def webp_of(width: int, height: int) -> bytes:
    """An animated WebP whose canvas claims another size than its frames."""
    data = animated("WEBP", 2)
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]


def avif_of(width: int, height: int) -> bytes:
    """An AVIF whose boxes claim another size than its pictures have."""
    at = PICTURES["avif"].index(b"ispe") + 8
    return PICTURES["avif"][:at] + struct.pack(">II", width, height) + PICTURES["avif"][at + 8 :]


def exif(orientation: int, kind: int = 3) -> bytes:
    """An EXIF block with the tag of the orientation, of that type."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHHI", 0x0112, kind, 1, orientation, 0, 0)
