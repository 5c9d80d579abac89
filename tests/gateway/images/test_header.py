"""What is read from a picture's header before any decoder sees it."""

import random
import struct
import time
import tracemalloc
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gateway.images import header
from gateway.images.header import Header, HeaderError
from gateway.images.plan import Sizing, decoded_bytes, plan
from gateway.images.sniff import FORMATS, Format, recognise, sniff

from . import made

SCENE = Image.effect_noise((40, 30), 80).convert("RGB")
FUZZED = 10_000


@pytest.mark.parametrize("kind", made.WRITABLE)
def test_every_format_is_known_by_its_bytes_and_measured(kind: Format) -> None:
    """No label is needed, and no decoder."""
    assert sniff(made.PICTURES[kind]) == kind
    read = header.read(made.PICTURES[kind])
    assert (read.format, read.size, read.bits, read.orientation) == (kind, (40, 30), 8, 1)
    assert not any((read.alpha, read.animated, read.progressive, read.profile))


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (made.saved(SCENE, "JPEG", progressive=True), {"progressive": True}),
        (made.saved(SCENE, "JPEG", icc_profile=b"x" * 70_000), {"profile": True}),
        (made.saved(SCENE.convert("L"), "JPEG"), {"colours": "grey"}),
        (made.saved(SCENE.convert("CMYK"), "JPEG"), {"colours": "cmyk", "adobe": 0}),
        (made.png((40, 30), depth=16, color=2), {"bits": 16, "colours": "rgb"}),
        (made.png((40, 30), color=6), {"alpha": True}),
        (made.png((40, 30), color=4), {"alpha": True, "colours": "grey"}),
        (made.png((40, 30), interlaced=1), {"progressive": True}),
        (made.png((40, 30), color=2, before=[made.chunk(b"tRNS", bytes(6))]), {"alpha": True}),
        (made.saved(SCENE.quantize(4), "PNG"), {"colours": "palette"}),
        (made.saved(SCENE, "PNG", icc_profile=b"x" * 500), {"profile": True}),
        (made.animated("PNG"), {"animated": True}),
        (made.saved(SCENE, "WEBP", lossless=True), {}),
        (made.animated("WEBP"), {"animated": True}),
        (made.saved(Image.new("RGBA", (40, 30)), "WEBP", lossless=True), {"alpha": True}),
        (made.saved(SCENE, "WEBP", icc_profile=b"x" * 500), {"profile": True}),
        (made.saved(Image.new("RGBA", (40, 30)), "AVIF"), {"alpha": True}),
        (made.animated("AVIF"), {"animated": True}),
        (made.saved(SCENE.convert("CMYK"), "TIFF"), {"colours": "cmyk"}),
        (made.saved(SCENE.convert("L"), "BMP"), {"colours": "palette"}),
    ],
)
def test_what_else_a_header_says(data: bytes, facts: dict[str, object]) -> None:
    """Several passes, depth, colours, transparency, animation and profiles are seen."""
    read = header.read(data)
    assert {name: getattr(read, name) for name in facts} == facts
    assert read.size == (40, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIC", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_seen(kind: str, orientation: int) -> None:
    """In all formats that have one, whether in EXIF, as a tag or in boxes of its own; the size is that upright."""
    noted = Image.Exif()
    noted[0x0112] = orientation
    read = header.read(made.saved(SCENE, kind, exif=noted if kind == "TIFF" else noted.tobytes()))
    assert read.orientation == orientation
    assert read.size == ((40, 30) if orientation < 5 else (30, 40))
    assert (read.width, read.height) == (40, 30)


@pytest.mark.parametrize(
    "block",
    [made.exif(0), made.exif(9), made.exif(65535), made.exif(6, kind=2), b"Exif\0\0MM\0*", b"Exif\0\0" + bytes(60),
     b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIII", 0x8769, 4, 1, 8, 8), b"Exif\0\0II*\0" + b"\xff" * 60_000],
    ids=["0", "9", "65535", "a string", "cut off", "zeros", "a loop", "64 kB of tags"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_that_makes_no_sense_is_none(kind: str, block: bytes) -> None:
    """Such a picture is shown as it is stored."""
    assert header.read(made.saved(SCENE, kind, exif=block)).orientation == 1


def test_what_is_cut_off_of_a_heic_is_no_part_of_it() -> None:
    """Its decoder works in blocks and cuts off what is too much; a part of nothing is none."""
    data = made.PICTURES["heic"]
    at = data.index(b"clap") + 4
    assert struct.unpack_from(">II", data, data.index(b"ispe") + 8) == (64, 64)
    assert header.read(data) == Header("heic", 40, 30)
    halves = data[:at] + struct.pack(">IIII", 41, 2, 61, 2) + data[at + 16 :]
    assert header.read(halves).size == (20, 30)
    with pytest.raises(HeaderError):
        header.read(data[:at] + struct.pack(">IIII", 40, 0, 30, 1) + data[at + 16 :])


@pytest.mark.parametrize("size", [(13_000, 13_000), (65_500, 65_500)])
def test_a_bomb_is_measured_in_no_time_and_no_memory(size: tuple[int, int]) -> None:
    """20 kilobytes that claim 13,000 x 13,000 pixels cost less than 5 ms and no memory, and so do all the others."""
    bombs = [made.png(size, data=b""), made.jpeg_of(*size), made.gif_of(*size), made.gif_frame_of(*size),
             made.webp_of(*size), made.avif_of(*size)]  # fmt: skip
    tracemalloc.start()
    took = []
    try:
        for data in bombs:
            began = time.perf_counter()
            assert header.read(data).size == size
            took.append(time.perf_counter() - began)
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()
    assert sorted(took)[len(took) // 2] < 0.005


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pictures_without_pixels_are_none(size: tuple[int, int]) -> None:
    """A side of zero is no side."""
    for data in (made.png(size, data=b""), made.jpeg_of(*size), made.avif_of(*size)):
        with pytest.raises(HeaderError):
            header.read(data)


def test_a_bmp_may_stand_on_its_head() -> None:
    """A negative height is a height, the most negative one too large, never an overflow."""
    data = bytearray(made.PICTURES["bmp"])
    for height, read in ((-30, 30), (-(2**31), 2**31)):
        data[22:26] = struct.pack("<i", height)
        assert header.read(bytes(data)).height == read


TAGS = b"\xff\xe1\xff\xffExif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(65535 - 18)
LONG = {
    "fill before a marker": b"\xff\xd8" + b"\xff" * 2**22,
    "segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 2**20,
    "junk between segments": b"\xff\xd8" + (b"\xff\0" * 2**15 + b"\xff\xfe\0\2") * 2**6,
    "a segment of 64 kB that is not there": b"\xff\xd8\xff\xe1\xff\xff",
    "chunks": made.png((8, 8), before=[made.chunk(b"tEXt", b"a\0b")] * 100_000),
    "a chunk of 4 GB": made.png((8, 8))[:33] + b"\xff\xff\xff\xfftEXt",
    "blocks of a GIF": made.PICTURES["gif"][:13] + b"!\xfe" + b"\1a" * 2**20,
    "extensions of a GIF": made.PICTURES["gif"][:13] + b"!\xfe\1a\0" * 2**18,
    "chunks of a WebP": made.webp_of(8, 8)[:30] + b"VP8 \0\0\0\0" * 2**17,
    "boxes": made.PICTURES["avif"][:32] + b"\0\0\0\x08free" * 2**17,
    "extensions of blocks": made.PICTURES["gif"][:13] + (b"!\xfe" + b"\1a" * 4000 + b"\0") * 2500,
    "EXIF after EXIF": b"\xff\xd8" + TAGS * 319 + made.PICTURES["jpeg"][2:],
    "tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(12) * 65535,
}


@pytest.mark.parametrize("name", LONG)
def test_no_number_in_a_file_makes_work(name: str) -> None:
    """Millions of segments, chunks, blocks, boxes or tags are not counted: a header has few, and there is a most."""
    data = LONG[name]
    took = []
    for _ in range(3):
        began = time.perf_counter()
        outcome(data)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


@pytest.mark.parametrize(
    "junk", [b"\xff", b"\xff\xff\xff", b"\0", b"\xff\0\0\xff\0", b"left by an editor", bytes(60_000)]
)
def test_junk_between_a_jpegs_segments_is_skipped(junk: bytes) -> None:
    """As decoders do: editors leave some, and such pictures are shown everywhere."""
    data = made.PICTURES["jpeg"]
    at = data.index(b"\xff\xdb")
    junked = data[:at] + junk + data[at:]
    assert header.read(junked) == header.read(data)
    assert Image.open(BytesIO(junked)).tobytes() == Image.open(BytesIO(data)).tobytes()
    with pytest.raises(HeaderError):
        header.read(data[:at] + bytes(70_000) + data[at:])


def test_what_stands_behind_very_many_chunks_is_not_overlooked() -> None:
    """A PNG has its orientation and its transparency wherever they stand, or is refused."""
    turned = made.chunk(b"eXIf", made.exif(6).removeprefix(b"Exif\0\0"))
    for length, most in ((0, 4_000), (4_096, 8_000)):
        chunk = made.chunk(b"tEXt", bytes(length))
        assert header.read(made.png((8, 4), after=[chunk] * most + [turned])).size == (4, 8)
    assert header.read(made.png((8, 4)) + turned).orientation == 1


@pytest.mark.parametrize(("length", "number"), [(0, 4_200), (100, 4_300), (1_000, 6_000)])
def test_a_small_file_of_very_many_chunks_is_refused(length: int, number: int) -> None:
    """Looking through them would hold others up, and nothing writes so many that are so small."""
    with pytest.raises(HeaderError, match="chunks"):
        header.read(made.png((8, 4), after=[made.chunk(b"tEXt", bytes(length))] * number))


def test_scans_of_their_own_are_passes() -> None:
    """A decoder keeps a whole JPEG whose first scan lacks a component, as it keeps a progressive one."""
    data = made.separate_scans(4032, 3024)
    read = header.read(data)
    assert (read.size, read.progressive) == ((4032, 3024), True)
    whole = header.read(made.jpeg_of(4032, 3024))
    planned = plan(whole, Sizing("square", 384), "fast")
    assert decoded_bytes(read, planned) >= decoded_bytes(whole, planned) + 4032 * 3024 * 8


@pytest.mark.parametrize("kind", made.WRITABLE)
def test_every_prefix_is_read_or_refused(kind: Format) -> None:
    """However little is left of a file, nothing but our own error comes of it."""
    sizes = set()
    for length in range(len(made.PICTURES[kind])):
        try:
            sizes.add(header.read(made.PICTURES[kind][:length]).size)
        except HeaderError:
            sizes.add((0, 0))
    assert sizes <= {(40, 30), (0, 0)}


def test_ten_thousand_spoilt_headers_are_read_or_refused() -> None:
    """Whatever bytes are changed, put in or taken out, the answer is a header or our own error, at once."""
    draw, slowest = random.Random(1), 0.0
    kinds: list[object] = []
    for _ in range(FUZZED):
        data = spoilt(made.PICTURES[draw.choice(made.WRITABLE)], draw)
        began = time.process_time()
        kinds.append(outcome(data))
        slowest = max(slowest, time.process_time() - began)
    assert kinds.count(HeaderError) > FUZZED // 20
    assert kinds.count(Header) > FUZZED // 20
    assert slowest < 0.1


def spoilt(data: bytes, draw: random.Random) -> bytes:
    """The file with some bytes of its beginning changed, put in or taken out."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = min(int(draw.expovariate(1 / 60)), len(changed) - 1)
        match draw.randrange(4):
            case 0:
                changed[at] = draw.randrange(256)
            case 1:
                changed[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                changed[at:at] = draw.randbytes(draw.randint(1, 8))
            case _:
                del changed[at : at + draw.randint(1, 8)]
    return bytes(changed)


def outcome(data: bytes) -> type:
    """What reading gives: a header or our own error."""
    try:
        return type(header.read(data))
    except HeaderError:
        return HeaderError


@given(st.binary(max_size=64))
def test_any_bytes_are_named_or_not(data: bytes) -> None:
    """Naming never fails."""
    assert sniff(data) in (None, *FORMATS)
    assert recognise(data) is None or recognise(data)
