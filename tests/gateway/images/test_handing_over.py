"""From a known picture to what an engine gets: one after the other, as it came, many at once."""

import asyncio
import re
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import Overloaded, PictureError
from gateway.images import pool
from gateway.images.ingest import Encoded, Ingest
from gateway.images.plan import Sizing
from gateway.images.shelf import Shelf
from gateway.values import Bytes, Seconds

from . import made
from .ingests import (
    CONFIG,
    PARAM,
    PICTURE,
    SQUARE,
    UNKNOWN,
    FakeFetcher,
    content,
    copies,
    data_url,
    given,
    handed,
    refused,
)


async def test_an_engine_gets_what_we_wrote(ingest: Ingest) -> None:
    """A plain PNG, in the size of the model's square, or as it was where nobody knows the model."""
    for sizing, size in ((UNKNOWN, (80, 60)), (SQUARE, (64, 64))):
        kind, data = await handed(ingest, PICTURE, sizing)
        image = Image.open(BytesIO(data))
        assert (kind, image.mode, image.size) == ("image/png", "RGB", size)


async def test_every_way_in_gives_the_same_bytes(ingest: Ingest, web: FakeFetcher) -> None:
    """The same picture by URL, as base64 and as a file in the command line is the same to an engine, byte for byte."""
    ways = ["https://good.example/a", data_url(PICTURE), data_url(PICTURE, "image/jpeg")]
    assert len({await given(ingest, way, SQUARE) for way in ways}) == 1
    assert web.asked


async def test_what_is_done_is_said(ingest: Ingest) -> None:
    """In a line, told from the header alone."""
    turned = made.saved(Image.effect_noise((80, 60), 50), "JPEG", exif=made.exif(6))
    for data, sizing, note in (
        (turned, SQUARE, "80x60 jpeg exif=6 -> 64x64 fast"),
        (PICTURE, UNKNOWN, "80x60 png -> 80x60 fast"),
    ):
        assert ingest.note(await ingest.load(data_url(data), param=PARAM), sizing) == note


async def test_a_damaged_picture_is_refused(ingest: Ingest) -> None:
    """Its header was well, the rest was not."""
    assert (await refused(ingest, data_url(PICTURE[:-300]))).code == "image_parse_error"


async def test_a_picture_in_separate_scans_gets_its_memory(ingest: Ingest) -> None:
    """Its decoder keeps all of it, as it does of a progressive one."""
    note, _ = await handed(ingest, made.separate_scans(4032, 3024))
    assert note


async def test_a_picture_that_takes_too_long_is_refused(web: FakeFetcher) -> None:
    """Its worker is killed, and the client told what to do."""
    async with Ingest(web, ImagesConfig(decode_timeout=Seconds(0.001)), workers=1) as ingest:
        error = await refused(ingest, data_url(made.noise("png", (3000, 2000), compress_level=1)))
    assert error.code == "image_parse_error"
    assert (
        "takes too much time to decode. Send it in a simpler form, such as a plain JPEG, or smaller." in error.message
    )


async def test_a_picture_for_which_there_is_never_memory_is_refused(web: FakeFetcher) -> None:
    """At once: to wait would not help."""
    async with Ingest(web, ImagesConfig(max_decoded=Bytes(2**20)), workers=1) as ingest:
        error = await refused(ingest, data_url(PICTURE))
    assert "takes too much memory to decode" in error.message


async def test_a_request_leaves_memory_to_others(web: FakeFetcher) -> None:
    """The pictures of one request take half of it at most at a time; they wait for each other, not others for them."""
    most = 400 * 2**20
    async with Ingest(web, ImagesConfig(max_decoded=Bytes(most)), workers=4) as ingest:
        picture = await ingest.load(data_url(made.png((2000, 1500), color=2)), param=PARAM)
        lease, free = ingest.lease(here=False), []
        work = [asyncio.create_task(ingest.hand_over(picture, UNKNOWN, lease, param=PARAM)) for _ in range(12)]
        while not all(each.done() for each in work):
            free.append(ingest.pool.budget.free)
            await asyncio.sleep(0.001)
        await asyncio.gather(*work)
    assert most // 2 <= min(free) < most


# --- the original ----------------------------------------------------------------------------------------------------

SMALL = Sizing(None, 64)
PLAIN = {
    "a jpeg": made.noise("jpeg", (80, 60)),
    "a png": PICTURE,
    "a grey jpeg": made.saved(Image.effect_noise((80, 60), 50), "JPEG"),
    "a progressive jpeg": made.noise("jpeg", (80, 60), progressive=True),
}
NOT_PLAIN = {
    "turned": made.noise("jpeg", (80, 60), exif=made.exif(3)),
    "in inks": made.saved(Image.new("CMYK", (80, 60)), "JPEG"),
    "with a profile": made.noise("jpeg", (80, 60), icc_profile=b"x" * 200),
    "deep": made.png((80, 60), depth=16),
    "transparent": made.png((80, 60), color=6),
    "a palette": made.saved(Image.new("P", (80, 60)), "PNG"),
    "moving": made.animated("PNG", size=(80, 60)),
    "of another format": made.noise("webp", (80, 60)),
    "large": made.noise("jpeg", (800, 600)),
    "tiny": made.noise("png", (8, 8)),
}


@pytest.mark.parametrize("name", [*PLAIN, *NOT_PLAIN])
async def test_plain_pictures_stay_as_they_are_where_that_is_wanted(web: FakeFetcher, name: str) -> None:
    """With `images.handover = "original"` an engine gets their very bytes; all others are decoded as ever."""
    data = PLAIN.get(name) or NOT_PLAIN[name]
    async with Ingest(web, ImagesConfig(handover="original"), workers=1) as ingest:
        picture = await ingest.load(data_url(data), param=PARAM)
        _, handed_over = content(await given(ingest, data_url(data), SMALL))
        note = ingest.note(picture, SMALL)
    assert (handed_over == data) is (name in PLAIN)
    assert bool(re.fullmatch(r"80x60 (jpeg|png) original", note)) is (name in PLAIN)


async def test_no_original_is_handed_over_by_default(ingest: Ingest) -> None:
    """Whatever a client sends, an engine decodes only what we wrote."""
    for data in PLAIN.values():
        assert (await handed(ingest, data))[1] != data


async def test_the_way_of_handing_over_is_in_the_name_of_our_work(web: FakeFetcher) -> None:
    """Answers to differently made pictures are different answers."""
    configs = [ImagesConfig(), ImagesConfig(handover="original"), ImagesConfig(resize="exact")]
    assert len({Ingest(web, config, workers=1).pipeline for config in configs}) == 3


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_too_many_pictures_are_told_to_come_back(web: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 large ones at once: each gets its picture, or a time to come back."""
    monkeypatch.setattr(pool, "LONGEST_WAIT", 0.3)
    async with Ingest(web, ImagesConfig(max_decoded=Bytes(300 * 2**20)), workers=2) as ingest:
        await ingest.pool.is_filtered()  # so that a worker is there
        pictures = await copies(ingest, made.png((4000, 3000), color=2), 64)
        work = [ingest.hand_over(picture, SQUARE, ingest.lease(here=False), param=PARAM) for picture in pictures]
        results = await asyncio.gather(*work, return_exceptions=True)
        assert {type(result).__name__ for result in results} == {"str", "Overloaded"}
        assert ingest.pool.budget.free == ingest.pool.budget.size


def decodes(ingest: Ingest) -> int:
    """How many pictures its workers have answered about."""
    return sum(worker.done for worker in ingest.pool._staff._decoders)


@pytest.mark.parametrize("here", [False, True])
async def test_many_copies_at_once_are_decoded_once(web: FakeFetcher, here: bool, tmp_path: Path) -> None:
    """Whoever asks for a picture that is being decoded shares it, also when the first who asked has left."""
    async with Ingest(web, CONFIG, workers=2, shelf=Shelf(tmp_path)) as ingest:
        await ingest.pool.is_filtered()
        picture = await ingest.load(data_url(made.png((1000, 1000), color=2)), param=PARAM)
        with ExitStack() as leases:
            held = [leases.enter_context(ingest.lease(here=here)) for _ in range(100)]
            work = [asyncio.create_task(ingest.hand_over(picture, SQUARE, lease, param=PARAM)) for lease in held]
            await asyncio.sleep(0)
            for first in range(3):
                work[first].cancel()
            urls = await asyncio.gather(*work[3:])
            assert len(set(urls)) == 1
            assert not here or Path(urls[0].removeprefix("file://")).exists()
            assert decodes(ingest) == 1
        assert [*ingest.shelf.folder.iterdir()] == []


@pytest.mark.parametrize("here", [False, True])
async def test_what_lies_decoded_is_bounded(
    web: FakeFetcher, here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While engines are slow, decoded pictures take no more than is set aside; later ones are told to come back."""
    monkeypatch.setattr("gateway.images.ingest.LONGEST_WAIT", 0.05)
    most = 40 * 2**20
    config = ImagesConfig(max_decoded=Bytes(most), resize="off")
    async with Ingest(web, config, workers=2, shelf=Shelf(tmp_path)) as ingest:
        with ExitStack() as leases:
            results: list[str] = []
            for picture in await copies(ingest, made.png((1000, 1000), color=2), 16):  # 3 MB each, once decoded
                lease = leases.enter_context(ingest.lease(here=here))
                with suppress(Overloaded):
                    await ingest.reserve([(PARAM, picture)], UNKNOWN, lease)
                    results.append(await ingest.hand_over(picture, UNKNOWN, lease, param=PARAM))
            assert 0 < len(results) < 16
            on_shelf = sum(file.stat().st_size for file in ingest.shelf.folder.iterdir())
            assert on_shelf + sum(len(url) for url in results) <= most
        assert ingest.decoded.free == most


async def test_the_pictures_of_a_request_wait_together(web: FakeFetcher) -> None:
    """Else requests that have one each could wait for one another; what is never free is refused at once."""
    config = ImagesConfig(max_decoded=Bytes(40 * 2**20), resize="off")
    async with Ingest(web, config, workers=1) as ingest:
        pictures = [(PARAM, picture) for picture in await copies(ingest, made.png((1000, 1000), color=2), 16)]

        async def request(part: list[tuple[str, Encoded]]) -> None:
            with ingest.lease(here=False) as lease:
                await ingest.reserve(part, UNKNOWN, lease)
                await ingest.reserve(part, UNKNOWN, lease)  # an engine is asked once more: it is held already
                await asyncio.gather(*(ingest.hand_over(each, UNKNOWN, lease, param=PARAM) for _, each in part))

        await asyncio.wait_for(asyncio.gather(*(request(pictures[at : at + 6]) for at in range(10))), 60)
        with pytest.raises(PictureError, match="takes too much memory"):
            await request(pictures)
        assert ingest.decoded.free == ingest.decoded.size


async def test_what_was_fetched_is_counted(ingest: Ingest) -> None:
    """With whoever bounds what requests hold; what stands in the request is counted there already."""
    held: list[int] = []
    await ingest.load("https://good.example/a", param=PARAM, hold=held.append)
    await ingest.load(data_url(PICTURE), param=PARAM, hold=held.append)
    assert held == [len(PICTURE)]
