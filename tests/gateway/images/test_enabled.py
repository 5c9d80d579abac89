"""TIFF and BMP, where they are enabled: what is hostile in them costs one picture at most."""

import random
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import GatewayError
from gateway.images.ingest import Ingest
from gateway.images.sniff import Format
from gateway.values import Seconds

from . import made
from .ingests import SQUARE, NoSource, data_url, given

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOO_LARGE, DAMAGED, DECODED = "image_too_large", "image_parse_error", "decoded"
BMP, TIFF = made.PICTURES["bmp"], made.PICTURES["tiff"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scans() -> AsyncIterator[Ingest]:
    """An ingest that takes what scanners and old programs write, with one worker at work."""
    config = ImagesConfig(formats=("jpeg", "tiff", "bmp"), decode_timeout=Seconds(10))
    async with Ingest(NoSource(), config, workers=1) as running:
        yield running


async def fate(ingest: Ingest, data: bytes) -> str:
    """What becomes of it: the code of its refusal, or "decoded"."""
    try:
        await given(ingest, data_url(data), SQUARE)
    except GatewayError as error:
        return str(error.code)
    return DECODED


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, colours: int = 0, data: bytes = b"") -> bytes:
    """A BMP from its header fields and its bytes, its palette included."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
    start = 14 + len(head) + 4 * (colours if bits <= 8 else 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + data


def tiff(**tags: int) -> bytes:
    """A grey TIFF of 8 by 8 pixels, with other tags or other values of them, by number."""
    usual = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    entries = sorted((usual | {int(name[1:]): value for name, value in tags.items()}).items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(entries)) + directory + bytes(4)


FAR, MOST = 2**31, 2**32 - 1
KINDS = (5, 7, 8, 32773, 34925, 50000)  # of compression
PALETTE = bmp(4, 4, bits=8, data=bytes(48))
HOSTILE: dict[str, tuple[bytes, set[str]]] = {
    "a plain bmp": (bmp(4, 4, data=bytes(48)), {DECODED}),
    "a bmp of 3,000,000 x 2,000,000": (bmp(3_000_000, 2_000_000, data=bytes(1000)), {TOO_LARGE}),
    "a bmp as low as can be": (bmp(1, -(2**31), data=bytes(1000)), {TOO_LARGE}),
    "a bmp that is wide below nothing": (bmp(-4, 4, data=bytes(48)), {DAMAGED}),
    "a bmp without height": (bmp(4, 0, data=bytes(48)), {DAMAGED}),
    "a bmp of three bits": (bmp(4, 4, bits=3, data=bytes(48)), {DAMAGED}),
    "a bmp that is short": (bmp(100, 100, data=bytes(1000)), {DAMAGED}),
    "runs that unfold": (
        bmp(5000, 5000, bits=8, compression=1, colours=1, data=bytes(4) + b"\xff\0" * 2000 + b"\0\1"),
        {DECODED, DAMAGED},
    ),
    "runs without an end": (
        bmp(4000, 4000, bits=8, compression=1, colours=1, data=bytes(4) + b"\0\2\xff\xff" * 5000),
        {DECODED, DAMAGED},
    ),
    "runs that lead outside": (
        bmp(8, 8, bits=8, compression=1, colours=1, data=bytes(4) + b"\0\2\xff\xff\xff\0\0\1"),
        {DECODED, DAMAGED},
    ),
    "a palette of four billion": (PALETTE[:46] + struct.pack("<II", MOST, 0) + bytes(80), {DAMAGED}),
    "a jpeg in a bmp": (bmp(40, 30, bits=0, compression=4, data=made.PICTURES["jpeg"]), {DAMAGED}),
    "a plain tiff": (tiff(), {DECODED}),
    "a tiff as large as can be": (tiff(t256=MOST, t257=MOST), {TOO_LARGE}),
    "a tiff of 65535 x 900 in a hundred bytes": (tiff(t256=60_000, t257=800, t278=800), {DAMAGED}),
    "a tiff without width": (tiff(t256=0), {DAMAGED}),
    "strips outside of the file": (tiff(t273=FAR), {DAMAGED}),
    "strips of four gigabytes": (tiff(t279=MOST), {DECODED, DAMAGED}),
    "strips of four billion rows": (tiff(t278=MOST), {DECODED, DAMAGED}),
    "four billion samples": (tiff(t277=MOST), {DAMAGED}),
    "samples of four billion bits": (tiff(t258=MOST), {DAMAGED}),
    "a compression that is none": (tiff(t259=12_345), {DAMAGED}),
    **{f"compression {kind} of zeros": (tiff(t259=kind), {DECODED, DAMAGED}) for kind in KINDS},
    "a directory that is the picture": (b"II*\0" + struct.pack("<I", 0) + bytes(200), {DAMAGED}),
    "a directory outside of the file": (b"II*\0" + struct.pack("<I", FAR) + bytes(200), {DAMAGED}),
    "a directory that leads back to itself": (tiff()[:-4] + struct.pack("<I", 72), {DECODED}),
    "an EXIF that is the whole": (tiff(t34665=72), {DECODED}),
    "tiles and strips": (tiff(t322=8, t323=8, t324=8, t325=64), {DECODED, DAMAGED}),
    "tiles of four billion": (tiff(t322=MOST, t323=MOST, t324=8, t325=64), {DECODED, DAMAGED}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_ones_are_refused_or_shown(scans: Ingest, name: str) -> None:
    """With a code of ours; no worker is lost over them, and the next picture is well."""
    data, expected = HOSTILE[name]
    pids = {worker.pid for worker in scans.pool._staff._decoders}
    assert await fate(scans, data) in expected
    assert await fate(scans, made.PICTURES["jpeg"]) == DECODED
    assert {worker.pid for worker in scans.pool._staff._decoders} >= pids


@pytest.mark.parametrize("kind", ["tiff", "bmp"])
async def test_spoilt_and_truncated_ones_are_refused_or_shown(scans: Ingest, kind: Format) -> None:
    """Whatever bytes are changed, wherever the file ends; and no worker dies of it."""
    draw = random.Random(kind)
    pids: set[int] = set()
    for number in range(80):
        data = bytearray(made.PICTURES[kind])
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(10, len(data) if number % 2 else 200)] = draw.randrange(256)
        assert await fate(scans, bytes(data)) in (DECODED, DAMAGED, TOO_LARGE)
        assert await fate(scans, bytes(data[: draw.randrange(14, len(data))])) in (DECODED, DAMAGED, TOO_LARGE)
        pids |= {worker.pid for worker in scans.pool._staff._decoders}
    assert len(pids) <= 2


async def test_every_kind_of_compression_is_read(scans: Ingest) -> None:
    """Those that scanners use, in the locked-up process too."""
    image = Image.effect_noise((40, 30), 80).convert("RGB")
    for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        assert await fate(scans, made.saved(image, "TIFF", compression=kind)) == DECODED
    for kind in ("group3", "group4"):
        assert await fate(scans, made.saved(image.convert("1"), "TIFF", compression=kind)) == DECODED
