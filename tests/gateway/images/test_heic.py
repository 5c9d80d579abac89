"""HEIC, where it is enabled: what phones write is shown as it is meant, and what is hostile costs one picture."""

import random
import struct
from collections.abc import AsyncIterator
from io import BytesIO

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import GatewayError
from gateway.images import boxes, header
from gateway.images.ingest import Ingest
from gateway.images.plan import Sizing
from tests.detail import photograph

from . import colour, made
from .ingests import UNKNOWN, NoSource, content, data_url, given

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCENE = photograph((160, 120))
HEIC = made.PICTURES["heic"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def phones() -> AsyncIterator[Ingest]:
    """An ingest that takes what phones send, with one worker at work."""
    async with Ingest(NoSource(), ImagesConfig(formats=("jpeg", "avif", "heic")), workers=1) as running:
        yield running


async def shown(ingest: Ingest, data: bytes, sizing: Sizing = UNKNOWN) -> Image.Image:
    """The picture as an engine gets it."""
    _, png = content(await given(ingest, data_url(data), sizing))
    return Image.open(BytesIO(png))


async def fate(ingest: Ingest, data: bytes) -> str:
    """What becomes of it: the code of its refusal, or "decoded"."""
    try:
        await shown(ingest, data)
    except GatewayError as error:
        return str(error.code)
    return "decoded"


def difference(one: Image.Image, other: Image.Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
    """By how many levels every sample differs."""
    assert one.size == other.size
    return np.asarray(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)))


async def test_the_kernel_still_filters_its_decoder(phones: Ingest) -> None:
    """Though it needs a thread of its own, which it may start."""
    assert await phones.pool.is_filtered()
    assert await fate(phones, HEIC) == "decoded"


@pytest.mark.parametrize(
    "options",
    [{}, {"chroma": 444}, {"tile_size": 64}, {"matrix_coefficients": 0, "chroma": 444, "quality": -1}],
    ids=["as usual", "all colours", "in tiles, as phones do", "without loss"],
)
async def test_its_pixels_are_those_that_were_written(phones: Ingest, options: dict[str, int]) -> None:
    """But for what its compression changes, which is nothing where it loses nothing."""
    written = made.saved(SCENE, "HEIC", **({"quality": 95} | options))
    changed = difference(await shown(phones, written), SCENE)
    assert changed.mean() <= (0 if "matrix_coefficients" in options else 2)


@pytest.mark.parametrize("size", [(40, 30), (65, 64), (127, 33), (1, 1)])
async def test_what_its_blocks_have_too_much_is_cut_off(phones: Ingest, size: tuple[int, int]) -> None:
    """A picture has the size that it was given, whatever its decoder works with."""
    assert header.read(made.noise("heic", size)).size == size
    least = max(1, -(-32 // min(size)))  # a model's smallest side
    assert (await shown(phones, made.noise("heic", size))).size == (size[0] * least, size[1] * least)


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_it_stands_upright(phones: Ingest, orientation: int) -> None:
    """Whichever way it was held; its decoder turns it, and nobody turns it again."""
    turned = await shown(phones, made.saved(SCENE, "HEIC", quality=95, exif=made.exif(orientation)))
    expected = SCENE if orientation == 1 else SCENE.transpose(UPRIGHT_BY[orientation])
    assert difference(turned, expected).mean() <= 2


UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


async def test_what_is_transparent_is_white(phones: Ingest) -> None:
    """As in all other formats."""
    clear = Image.new("RGBA", (128, 128), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 64, 128))
    image = await shown(phones, made.saved(clear, "HEIC", quality=100, chroma=444))
    left, right = (np.asarray(image.getpixel((x, 64))) for x in (16, 112))
    assert np.abs(left - (0, 0, 255)).max() <= 3
    assert np.abs(right - (255, 255, 255)).max() <= 3


async def test_ten_bits_become_eight(phones: Ingest) -> None:
    """A ramp from black to white is one, and not white."""
    row = np.linspace(0, 65535, 256).round().astype(np.uint16)
    deep = Image.fromarray(np.tile(row, (64, 1)))
    image = await shown(phones, made.saved(deep, "HEIC", quality=100))
    assert header.read(made.saved(deep, "HEIC")).bits > 8
    assert abs(np.asarray(image).mean() - 127.5) < 2


async def test_its_profile_is_applied(phones: Ingest) -> None:
    """Phones write Display P3."""
    flat = made.saved(
        Image.new("RGB", (64, 64), (90, 170, 110)), "HEIC", quality=100, chroma=444,
        icc_profile=colour.matrix_profile(colour.DISPLAY_P3),
    )  # fmt: skip
    meant = np.rint(colour.in_srgb(np.array([[[90, 170, 110]]]) / 255, colour.DISPLAY_P3) * 255)
    assert np.abs(np.asarray(await shown(phones, flat)).astype(int) - meant).max() <= 4


async def test_of_several_pictures_the_first_is_shown(phones: Ingest) -> None:
    """A burst of a phone is the picture that it names as its own."""
    burst = made.saved(SCENE, "HEIC", save_all=True, append_images=[Image.new("RGB", (64, 64), "red")], quality=95)
    assert difference(await shown(phones, burst), SCENE).mean() <= 2


# --- hostile ones ----------------------------------------------------------------------------------------------------


def claiming(width: int, height: int) -> bytes:
    """A HEIC whose boxes claim another size."""
    at = HEIC.index(b"ispe") + 8
    claimed = HEIC[:at] + struct.pack(">II", width, height) + HEIC[at + 8 :]
    at = claimed.index(b"clap") + 4
    return claimed[:at] + struct.pack(">IIII", width, 1, height, 1) + claimed[at + 16 :]


def box(name: bytes, *content: bytes) -> bytes:
    """A box with its length."""
    inside = b"".join(content)
    return struct.pack(">I4s", len(inside) + 8, name) + inside


def of_items(count: int) -> bytes:
    """A HEIC that lists the same picture under so many numbers, each with a place and properties of its own."""
    found = {name: HEIC[start:end] for name, start, end in walk(0, len(HEIC))}
    extra = range(2, count + 1)
    described = box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", 1, 0, b"hvc1"), b"\0")
    infe = [described[:12] + struct.pack(">H", number) + described[14:] for number in extra]
    listed = box(b"iinf", struct.pack(">IH", 0, count), described, *infe)
    ipma = found[b"ipma"]
    own = ipma[8:]
    associated = [struct.pack(">H", number) + own[2:] for number in extra]
    properties = box(
        b"iprp", box(b"ipco", found[b"ipco"]), box(b"ipma", ipma[:4], struct.pack(">I", count), own, *associated)
    )
    return assembled(found, listed, properties, [1, *extra])


def assembled(found: dict[bytes, bytes], listed: bytes, properties: bytes, numbers: list[int]) -> bytes:
    """The file of those boxes, every item at the same place in it."""
    pixels = found[b"mdat"]

    def file(at: int) -> bytes:
        places = [struct.pack(">HHHII", number, 0, 1, at, len(pixels)) for number in numbers]
        located = box(b"iloc", b"\0\0\0\0\x44\0", struct.pack(">H", len(numbers)), *places)
        parts = box(b"hdlr", found[b"hdlr"]), located, listed, box(b"pitm", found[b"pitm"]), properties
        return box(b"ftyp", found[b"ftyp"]) + box(b"meta", bytes(4), *parts)

    start = file(0)
    return file(len(start) + 8) + box(b"mdat", pixels)


def walk(start: int, end: int) -> list[boxes.Box]:
    """The boxes of our HEIC, inner ones too."""
    found = []
    for name, begins, ends in boxes._boxes(HEIC, start, end):
        found.append((name, begins, ends))
        if name in (b"meta", b"iprp"):
            found += walk(begins + (4 if name == b"meta" else 0), ends)
    return found


AV1 = made.PICTURES["avif"]
HOSTILE: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "65536 squared": (claiming(65_536, 65_536), ("image_too_large",)),
    "larger than its decoder makes it": (claiming(4000, 3000), ("image_parse_error",)),
    "smaller than its decoder makes it": (claiming(8, 8), ("decoded", "image_parse_error")),
    "10,000 items": (of_items(10_000), ("decoded", "image_parse_error")),
    "many items, the last of which is its picture": (
        of_items(5000).replace(box(b"pitm", bytes(4), b"\0\1"), box(b"pitm", bytes(4), struct.pack(">H", 5000))),
        ("decoded", "image_parse_error"),
    ),
    "no pixels": (HEIC[: HEIC.index(b"mdat") + 4], ("image_parse_error",)),
    "the pixels of an AVIF": (AV1[:40].replace(b"avif", b"heic") + AV1[40:], ("image_parse_error",)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_ones_are_refused_or_shown(phones: Ingest, name: str) -> None:
    """With a code of ours, and no worker is lost over them."""
    data, codes = HOSTILE[name]
    pids = {worker.pid for worker in phones.pool._staff._decoders}
    assert await fate(phones, data) in codes
    assert await fate(phones, HEIC) == "decoded"
    assert {worker.pid for worker in phones.pool._staff._decoders} >= pids


async def test_a_few_items_are_fine(phones: Ingest) -> None:
    """Our own boxes are right: of the same picture listed three times, the first is shown."""
    assert len(np.unique(np.asarray(await shown(phones, of_items(3))))) > 16


async def test_truncated_ones_are_damaged(phones: Ingest) -> None:
    """Cut anywhere before its end."""
    for tenths in range(1, 10):
        assert await fate(phones, HEIC[: len(HEIC) * tenths // 10]) == "image_parse_error"


async def test_spoilt_ones_are_shown_or_refused(phones: Ingest) -> None:
    """Whatever bytes are changed; and no worker dies of it."""
    draw = random.Random(1)
    pids: set[int] = set()
    for _ in range(80):
        spoilt = bytearray(HEIC)
        for _ in range(draw.randint(1, 4)):
            spoilt[draw.randrange(12, len(spoilt))] = draw.randrange(256)
        assert await fate(phones, bytes(spoilt)) in ("decoded", "image_parse_error", "image_too_large")
        pids |= {worker.pid for worker in phones.pool._staff._decoders}
    assert len(pids) <= 2
