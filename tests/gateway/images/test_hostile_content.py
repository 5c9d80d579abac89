"""Pictures made to harm: each is refused with one of our sentences or decoded, and the next picture is well."""

import asyncio
import base64
import random
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
import pytest_asyncio
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import GatewayError
from gateway.images.ingest import Ingest
from gateway.images.plan import Sizing
from gateway.images.sniff import Format
from gateway.values import Bytes, Seconds

from . import colour, made
from .ingests import NoSource
from .pools import resident

pytestmark = pytest.mark.asyncio(loop_scope="module")  # a worker for each test would take most of the time

PARAM = "messages[0].content[1].image_url.url"
MODEL = Sizing("square", 64)
TOO_LARGE, DAMAGED, NO_PICTURE = "image_too_large", "image_parse_error", "invalid_image_format"
EITHER = "decoded, or damaged"  # as the decoder's version will have it
TELLTALE = re.compile(r"0x|object|PIL|Error|Traceback|BytesIO|truncated| file \(|/tmp|/usr|/work|line \d")
CONFIG = ImagesConfig(formats=("jpeg", "png", "webp", "gif", "avif"), decode_timeout=Seconds(10))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ingest() -> AsyncIterator[Ingest]:
    """An ingest with one worker at work."""
    async with Ingest(NoSource(), CONFIG, workers=1) as running:
        yield running


async def fate(ingest: Ingest, data: bytes) -> str:
    """What becomes of the bytes: the code of their refusal, or "decoded" when an engine gets a picture of them."""
    try:
        text = base64.b64encode(data).decode()
        picture = await ingest.load(f"data:;base64,{text}", param=PARAM)
        url = await ingest.hand_over(picture, MODEL, ingest.lease(here=False), param=PARAM)
    except GatewayError as error:
        return sober(error)
    image = Image.open(BytesIO(base64.b64decode(url.partition(",")[2])), formats=["PNG"])
    assert (image.mode, image.size) == ("RGB", (64, 64))
    return "decoded"


def sober(error: GatewayError) -> str:
    """The code of an error that says where the picture stood, and nothing of a library or of this machine."""
    assert (error.status, error.param) == (400, PARAM)
    assert not TELLTALE.search(error.message)
    return str(error.code)


async def is_well(ingest: Ingest) -> bool:
    """Whether the next picture is decoded."""
    return await fate(ingest, made.PICTURES["jpeg"]) == "decoded"


def text(name: bytes, size: int) -> bytes:
    """A chunk with text or a profile that unfolds to `size` bytes."""
    heads = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}
    return made.chunk(name, heads[name] + zlib.compress(bytes(size), 9))


def frames(count: int) -> bytes:
    """An animated GIF with many frames, only the first of which is worth looking at."""
    data = made.saved(Image.new("P", (4, 4)), "GIF")
    start = data.index(b",")
    return data[:start] + data[start:-1] * count + b";"


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = made.noise("jpeg", (320, 240), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def with_segment(marker: int, content: bytes) -> bytes:
    """A JPEG with another segment at its beginning."""
    return b"\xff\xd8" + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + made.PICTURES["jpeg"][2:]


def exif_of(*directory: tuple[int, int, int, int], following: int = 0) -> bytes:
    """An EXIF block with those tags: number, type, count, value."""
    tags = b"".join(struct.pack(">HHII", *tag) for tag in directory)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(directory)) + tags + struct.pack(">I", following)


def animation(*controls: bytes, following: bytes = b"") -> bytes:
    """A PNG with chunks of an animation before its pixels and behind them."""
    return made.png((8, 8), before=controls, after=[following] if following else [])


def frames_of(count: int) -> bytes:
    """The chunk that says how many frames there are."""
    return made.chunk(b"acTL", struct.pack(">II", count, 0))


def frame_of(number: int, width: int, height: int) -> bytes:
    """The chunk that says how large a frame is."""
    return made.chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 1, 1, 0, 0))


PNG, JPEG = made.PICTURES["png"], made.PICTURES["jpeg"]
PROGRESSIVE = made.noise("jpeg", progressive=True)
PROFILE = colour.matrix_profile(colour.PROPHOTO)
FIRST_FRAME_RED = {kind: made.animated(kind, 40) for kind in ("GIF", "WEBP", "PNG", "AVIF")}

REFUSED: dict[str, tuple[bytes, str]] = {
    "a png bomb of 20 kB": (made.bomb(13_000), TOO_LARGE),
    "a png of 65535 squared": (made.png((65_535, 65_535), data=b""), TOO_LARGE),
    "a png as wide as can be": (made.png((2**31 - 1, 1), data=b""), TOO_LARGE),
    "a png as large as can be": (made.png((2**31 - 1, 2**31 - 1), data=b""), TOO_LARGE),
    "a png without width": (made.png((0, 9), data=b""), DAMAGED),
    "a png without height": (made.png((9, 0), data=b""), DAMAGED),
    "a jpeg of 65500 squared": (made.jpeg_of(65_500, 65_500), TOO_LARGE),
    "a gif with a screen of 65535": (made.gif_of(65_535, 65_535), TOO_LARGE),
    "a gif whose frame is larger than its screen": (made.gif_frame_of(65_535, 65_535), TOO_LARGE),
    "a gif without width": (made.gif_of(0, 0)[:13] + b";", DAMAGED),
    "a webp of 16383": (made.webp_of(16_383, 16_383), TOO_LARGE),
    "an avif of 65536": (made.avif_of(65_536, 65_536), TOO_LARGE),
    "an avif that is larger than it says": (made.avif_of(8, 8), EITHER),
    "an avif that is smaller than it says": (made.avif_of(4000, 4000), EITHER),
    "a jpeg that is larger than it says": (made.jpeg_of(3000, 3000), EITHER),
    "a webp whose canvas is larger": (made.webp_of(3000, 3000)[:30], DAMAGED),
    "too oblong": (made.png((10_000, 1)), TOO_LARGE),
    "too upright": (made.png((1, 10_000)), TOO_LARGE),
    "a bmp with a negative height": (made.PICTURES["bmp"][:22] + struct.pack("<i", -(2**31)), NO_PICTURE),
    "an icon": (made.saved(Image.new("RGB", (64, 64)), "ICO"), NO_PICTURE),
    "an icns": (made.saved(Image.new("RGB", (64, 64)), "ICNS"), NO_PICTURE),
    "100,000 chunks of text": (made.png((8, 8), before=[made.chunk(b"tEXt", b"a\0b")] * 100_000), DAMAGED),
    "text that unfolds to 50 MB": (made.png((8, 8), before=[text(b"zTXt", 50 * 2**20)]), EITHER),
    "international text that unfolds to 50 MB": (made.png((8, 8), before=[text(b"iTXt", 50 * 2**20)]), EITHER),
    "a profile that unfolds to 50 MB": (made.png((8, 8), before=[text(b"iCCP", 50 * 2**20)]), EITHER),
    "a broken application segment": (with_segment(0xEE, b"Adobe"), EITHER),
    "no quantisation": (JPEG[:2] + JPEG[JPEG.index(b"\xff\xc0") :], DAMAGED),
    "no huffman tables": (JPEG[: JPEG.index(b"\xff\xc4")] + JPEG[JPEG.index(b"\xff\xda") :], EITHER),
    "an APPn of 64 kB that is not there": (b"\xff\xd8\xff\xe1\xff\xff" + JPEG[2:], DAMAGED),
    "twelve bits": (JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"), DAMAGED),
    "lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), DAMAGED),
    "arithmetic coding": (JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1), EITHER),
    "several passes over more than there is": (made.jpeg_of(2000, 2000, PROGRESSIVE, b"\xff\xc2"), EITHER),
    "no end of image": (JPEG[:-2], EITHER),
    "a compression that is none": (made.png((8, 8), compression=1), EITHER),
    "an animation without frames": (animation(frames_of(0)), EITHER),
    "an animation of two billion frames": (animation(frames_of(2**31 - 1), frame_of(0, 8, 8)), EITHER),
    "two beginnings of an animation": (animation(frames_of(2), frames_of(3), frame_of(0, 8, 8)), EITHER),
    "frames that nobody describes": (animation(frames_of(2), following=made.chunk(b"fdAT", bytes(9))), EITHER),
    "a palette that is too short": (
        made.png((4, 4), color=3, before=[made.chunk(b"PLTE", bytes(3))], data=zlib.compress(b"\0\xff\xfe\1\2" * 4)),
        EITHER,
    ),
    "junk before a jpeg": (b"junk" + JPEG, NO_PICTURE),
    "pixels before their palette": (
        made.png((4, 4), color=3, after=[made.chunk(b"PLTE", bytes(3))], before=[]),
        EITHER,
    ),
    "a bad checksum": (PNG[:40] + bytes([PNG[40] ^ 1]) + PNG[41:], EITHER),
    "no end": (PNG[:-12], EITHER),
    "no pixels": (PNG[:33] + PNG[-12:], DAMAGED),
    "an interlace that is none": (made.png((8, 8), interlaced=7), EITHER),
    "a depth that is none": (made.png((8, 8), depth=3), DAMAGED),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", NO_PICTURE),
    "svg with an entity": (
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        NO_PICTURE,
    ),
    "a billion laughs": (b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><l/>', NO_PICTURE),
    "svgz": (zlib.compress(b"<svg/>", wbits=31), NO_PICTURE),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_PICTURE),
    "pdf": (b"%PDF-1.7\n" + JPEG, NO_PICTURE),
    "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(60), NO_PICTURE),
    "emf": (b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60), NO_PICTURE),
    "psd": (b"8BPS\0\1" + bytes(60), NO_PICTURE),
    "xcf": (b"gimp xcf file\0" + bytes(60), NO_PICTURE),
    "fits": (b"SIMPLE  =                    T" + b" " * 2850, NO_PICTURE),
    "dds": (b"DDS |\0\0\0" + bytes(120), NO_PICTURE),
    "blp": (b"BLP2\1\0\0\0" + bytes(180), NO_PICTURE),
    "sgi": (b"\1\xda\0\1\0\2" + bytes(500), NO_PICTURE),
    "fpx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), NO_PICTURE),
    "ppm": (b"P6\n2 2\n255\n" + bytes(12), NO_PICTURE),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), NO_PICTURE),
    "tiff": (made.PICTURES["tiff"], NO_PICTURE),
    "bmp": (made.PICTURES["bmp"], NO_PICTURE),
    "heic": (made.PICTURES["heic"], NO_PICTURE),
    "nothing but zeros": (bytes(4096), NO_PICTURE),
    "one byte": (b"\x89", NO_PICTURE),
    "eleven bytes": (b"RIFF\0\0\0\0WEB", NO_PICTURE),
    "twelve bytes": (b"RIFF\0\0\0\0WEBP", DAMAGED),
    "words": (b"Not found\n", NO_PICTURE),
    "json": (b'{"error": "not found"}', NO_PICTURE),
    "a page": (b"<html><body>404</body></html>", NO_PICTURE),
}  # fmt: skip

DECODED: dict[str, bytes] = {
    **{f"one pixel of {kind}": made.noise(kind, (1, 1)) for kind in made.DEFAULT},
    **{f"two pixels of {kind}": made.noise(kind, (1, 2)) for kind in made.DEFAULT},
    **{f"four pixels of {kind}": made.noise(kind, (2, 2)) for kind in made.DEFAULT},
    "10,000 frames": frames(10_000),
    "frames of 1000 squared": made.animated("GIF", 20, (1000, 1000)),
    **{f"an animated {kind}": data for kind, data in FIRST_FRAME_RED.items()},
    "a few thousand chunks": made.png((8, 8), before=[made.chunk(b"tEXt", b"a\0b")] * 3000),
    "5 MB behind a png": PNG + bytes(5 * 2**20),
    "5 MB behind a jpeg": JPEG + bytes(5 * 2**20),
    "a gif and a page": made.PICTURES["gif"] + b"<html><script>alert(1)</script>",
    "a jpeg and an archive": JPEG + b"PK\3\4" + bytes(200),
    "a png and a program": PNG + b"<?php system($_GET['c']); ?>",
    "several pictures in one": made.saved(
        Image.new("RGB", (40, 30)), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")]
    ),
    "an EXIF that leads back to itself": with_segment(0xE1, exif_of((0x8769, 4, 1, 8), following=8)),
    "an EXIF of 64 kB of tags": with_segment(0xE1, exif_of(*[(0x8769, 4, 1, 8)] * 5000)),
    "an EXIF that wants 4 GB": with_segment(0xE1, exif_of((0x010E, 2, 2**32 - 1, 2**32 - 1))),
    "a resolution without sense": with_segment(0xE1, exif_of((0x011A, 5, 1, 2**31), (0x0128, 3, 1, 9 << 16))),
    "a broken profile": made.noise("jpeg", icc_profile=b"x" * 500_000),
    "a bomb as the second frame": animation(
        frames_of(2), frame_of(0, 8, 8), following=frame_of(1, 65_535, 65_535) + made.chunk(b"fdAT", bytes(40))
    ),
    "a thousand frames of webp": made.animated("WEBP", 1000, (4, 4)),
    "a gain map": with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1.0'/>") + JPEG,
    "a profile with another light": made.noise("jpeg", icc_profile=PROFILE[:68] + b"\xff" * 12 + PROFILE[80:]),
    "an empty multi-picture segment": with_segment(0xE2, b"MPF\0MM\0*\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused(ingest: Ingest, name: str) -> None:
    """With the code that says what is wrong, in a sentence of ours; the next picture is well."""
    data, code = REFUSED[name]
    found = await fate(ingest, data)
    assert found == code or (code == EITHER and found in ("decoded", DAMAGED))
    assert await is_well(ingest)


@pytest.mark.parametrize("name", DECODED)
async def test_what_is_decoded(ingest: Ingest, name: str) -> None:
    """Tiny ones, the first of many frames, what hides before, behind and beside the pixels."""
    assert await fate(ingest, DECODED[name]) == "decoded"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
async def test_the_first_frame_is_the_picture(ingest: Ingest, kind: str) -> None:
    """Of an animation an engine sees how it begins."""
    url = f"data:;base64,{base64.b64encode(FIRST_FRAME_RED[kind]).decode()}"
    picture = await ingest.load(url, param=PARAM)
    given = await ingest.hand_over(picture, MODEL, ingest.lease(here=False), param=PARAM)
    red, green, blue = Image.open(BytesIO(base64.b64decode(given.partition(",")[2]))).getpixel((32, 32))  # type: ignore[misc]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


@pytest.mark.parametrize("size", [(13_000, 13_000), (16_000, 16_000)])
async def test_a_bomb_never_reaches_a_decoder(ingest: Ingest, size: tuple[int, int]) -> None:
    """It is refused from its header: no worker gets it, and our memory does not grow."""
    bomb = made.bomb(size[0])
    before, done = resident(), tasks_done(ingest)
    began = time.process_time()
    assert await fate(ingest, bomb) == TOO_LARGE
    assert time.process_time() - began < 0.05
    assert resident() - before < 2**20
    assert tasks_done(ingest) == done


def tasks_done(ingest: Ingest) -> int:
    """How many pictures its workers have answered about."""
    return sum(worker.done for worker in ingest.pool._staff._decoders)


@pytest.mark.parametrize("kind", ["tiff", "bmp", "heic", "psd", "eps", "fits", "ppm", "an icns"])
async def test_formats_that_are_off_never_reach_a_decoder(ingest: Ingest, kind: str) -> None:
    """Not even the process of one: their bytes end here."""
    done = tasks_done(ingest)
    assert await fate(ingest, REFUSED[kind][0]) == NO_PICTURE
    assert tasks_done(ingest) == done


async def test_a_jpeg_of_a_thousand_scans_ends() -> None:
    """Decoded, or refused when its time is over: it does not go on for ever."""
    async with Ingest(NoSource(), ImagesConfig(decode_timeout=Seconds(1)), workers=1) as ingest:
        began = time.monotonic()
        assert await fate(ingest, scans(1000)) in ("decoded", DAMAGED)
        assert time.monotonic() - began < 8
        assert await is_well(ingest)


@pytest.mark.parametrize("kind", made.DEFAULT)
async def test_truncated_pictures_are_damaged(ingest: Ingest, kind: Format) -> None:
    """Cut anywhere before its end, a picture is refused, not shown half grey."""
    data = made.PICTURES[kind]
    for tenths in range(1, 10):
        assert await fate(ingest, data[: len(data) * tenths // 10]) == DAMAGED


@pytest.mark.parametrize("kind", made.DEFAULT)
async def test_every_short_prefix_is_refused(ingest: Ingest, kind: Format) -> None:
    """However little is left of a file, the answer is one of ours."""
    for length in range(1, 200):
        assert await fate(ingest, made.PICTURES[kind][:length]) in (DAMAGED, NO_PICTURE)


@pytest.mark.parametrize("kind", made.DEFAULT)
async def test_spoilt_pictures_are_decoded_or_refused(ingest: Ingest, kind: Format) -> None:
    """Whatever bytes are changed; and no worker dies of it."""
    draw = random.Random(kind)
    pids: set[int] = set()
    for _ in range(80):
        spoilt = bytearray(made.PICTURES[kind])
        for _ in range(draw.randint(1, 4)):
            spoilt[draw.randrange(12, len(spoilt))] = draw.randrange(256)
        assert await fate(ingest, bytes(spoilt)) in ("decoded", DAMAGED, TOO_LARGE)
        pids |= {worker.pid for worker in ingest.pool._staff._decoders}
    assert len(pids) <= 2


async def test_sixty_four_large_pictures_at_once() -> None:
    """Just legal, they are all decoded; together they never take more than the memory set aside, nor do the workers."""
    config = ImagesConfig(max_pixels=4_000_000, max_decoded=Bytes(128 * 2**20), decode_timeout=Seconds(20))
    bomb = made.bomb(2000)  # 4 million pixels of one bit, which become 12 MB
    async with Ingest(NoSource(), config, workers=2) as many:
        await is_well(many)
        memory = asyncio.create_task(most_memory(many))
        results = await asyncio.gather(*(fate(many, bomb + bytes([number])) for number in range(64)))
        least_free, most_resident = await asyncio.wait_for(memory, 30)
        assert set(results) == {"decoded"}
        assert 0 <= least_free < many.pool.budget.size
        assert most_resident <= config.max_decoded


async def most_memory(ingest: Ingest) -> tuple[int, int]:
    """The least that was left of the budget until all is done, and by how much the workers have grown at most."""
    least, most = ingest.pool.budget.size, 0
    first: dict[int, int] = {}
    while least == ingest.pool.budget.size or ingest.pool.budget.free < ingest.pool.budget.size:
        least = min(least, ingest.pool.budget.free)
        now = {worker.pid: resident(worker.pid) for worker in ingest.pool._staff._decoders if worker.alive}
        first = now | first
        most = max(most, sum(size - first[pid] for pid, size in now.items()))
        await asyncio.sleep(0.002)
    return least, most
