"""From what a client wrote to a known picture, and from there to what an engine gets."""

import asyncio
import base64
import hashlib
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import Overloaded, PictureError
from gateway.images import installed, pool
from gateway.images.header import read
from gateway.images.ingest import Encoded, Ingest
from gateway.images.plan import Sizing
from gateway.images.shelf import Shelf
from gateway.values import Bytes, Seconds

from . import made

PARAM = "messages[0].content[1].image_url.url"
CONFIG = ImagesConfig()
PICTURE = made.noise("png", (80, 60))
SQUARE, UNKNOWN = Sizing("square", 64), Sizing(None, 1024)


def data_url(data: bytes, kind: str = "") -> str:
    """The picture as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def content(url: str) -> tuple[str, bytes]:
    """The media type and the bytes of a data URL."""
    head, _, text = url.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(text)


class FakeFetcher:
    """Has one thing at every URL, and notes what was asked for."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked: list[tuple[str, str]] = []

    async def fetch(self, url: str, *, param: str) -> bytes:
        self.asked.append((url, param))
        return self.body


@pytest.fixture
def fetcher() -> FakeFetcher:
    """A web with one picture in it."""
    return FakeFetcher(PICTURE)


@pytest.fixture
async def ingest(fetcher: FakeFetcher) -> AsyncIterator[Ingest]:
    """An ingest over that web."""
    async with Ingest(fetcher, CONFIG, workers=1) as running:
        yield running


async def handed(ingest: Ingest, data: bytes, sizing: Sizing = UNKNOWN) -> tuple[str, bytes]:
    """What an engine gets of a picture: the media type and the bytes."""
    return content(await given(ingest, data_url(data), sizing))


async def given(ingest: Ingest, url: str, sizing: Sizing = UNKNOWN) -> str:
    """The data URL that an engine gets of what stands in a request."""
    picture = await ingest.load(url, param=PARAM)
    with ingest.lease(here=False) as lease:
        return await ingest.hand_over(picture, sizing, lease, param=PARAM)


async def refused(ingest: Ingest, url: str) -> PictureError:
    """The error with which what stands there is refused."""
    with pytest.raises(PictureError) as caught:
        await given(ingest, url)
    assert caught.value.param == PARAM
    return caught.value


# --- loading ---------------------------------------------------------------------------------------------------------


async def test_one_picture_is_known_by_its_bytes(ingest: Ingest, fetcher: FakeFetcher) -> None:
    """By URL, as a data URL and as bare base64 it is the same picture, under the same digest."""
    text = base64.b64encode(PICTURE).decode()
    urls = ["https://good.example/a", "HTTP://good.example/b", f"data:image/jpeg;base64,{text}", text]
    pictures = [await ingest.load(url, param=PARAM) for url in urls]
    assert {picture.digest for picture in pictures} == {hashlib.sha256(PICTURE).hexdigest()}
    assert {picture.data for picture in pictures} == {PICTURE}
    assert fetcher.asked == [(url, PARAM) for url in urls[:2]]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,", "empty_image_file"),
        ("data:image/png;base64,%", "invalid_base64_image"),
        ("data:image/png;base64,PGh0bWw+", "invalid_image_format"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("file:///dev/shm/altgate/0", "invalid_image_url"),
        ("/etc/passwd", "invalid_image_url"),
        ("", "invalid_image_url"),
    ],
)
async def test_refusals_name_the_place(ingest: Ingest, fetcher: FakeFetcher, url: str, code: str) -> None:
    """Whatever is refused, the error says where it stood; nothing was fetched."""
    assert (await refused(ingest, url)).code == code
    assert fetcher.asked == []


PAGE = b"<!doctype html><p>Log in"
HEIC = made.heic()
READ = "Send a JPEG, PNG, WebP, GIF or AVIF"
ENABLE = ", or have it enabled on the server: images.formats ="


@pytest.mark.parametrize(
    ("url", "body", "sentence"),
    [
        ("https://x/a.png", PAGE, f"The URL at '{PARAM}' returned an HTML page. {READ}."),
        (data_url(PAGE), b"", f"The bytes at '{PARAM}' are an HTML page. {READ}."),
        (
            data_url(HEIC, "image/png"),
            b"",
            f"The label at '{PARAM}' says PNG, but the bytes are an HEIC picture. {READ}{ENABLE} [..., \"heic\"].",
        ),
        (
            data_url(HEIC, "image/heif"),
            b"",
            f"The bytes at '{PARAM}' are an HEIC picture. {READ}{ENABLE} [..., \"heic\"].",
        ),
        (
            data_url(made.PICTURES["tiff"], "IMAGE/X-ICON"),
            b"",
            f"The label at '{PARAM}' says ICON, but the bytes are a TIFF picture. {READ}{ENABLE} [..., \"tiff\"].",
        ),
        (
            data_url(bytes(99), "text/plain"),
            b"",
            f"The bytes at '{PARAM}' are no picture, or in a format that is not known. {READ}.",
        ),
    ],
)
async def test_what_is_no_picture_is_named_with_a_remedy(
    ingest: Ingest, fetcher: FakeFetcher, url: str, body: bytes, sentence: str
) -> None:
    """A page behind a URL, a wrong label, a format that could be enabled: whoever reads it knows what to do."""
    fetcher.body = body
    error = await refused(ingest, url)
    assert (error.code, error.message) == ("invalid_image_format", sentence)


@pytest.mark.parametrize("kind", ["tiff", "bmp"])
async def test_formats_can_be_enabled_and_left_out(fetcher: FakeFetcher, kind: str) -> None:
    """What is in `images.formats` is read; the sentence lists that and nothing else."""
    config = ImagesConfig(formats=("jpeg", kind))  # type: ignore[arg-type]
    async with Ingest(fetcher, config, workers=1) as ingest:
        _, data = await handed(ingest, made.PICTURES[kind])  # type: ignore[index]
        assert Image.open(BytesIO(data)).mode == "RGB"
        error = await refused(ingest, data_url(PICTURE))
        assert f"are a PNG picture. Send a JPEG or {kind.upper()}, or have it enabled" in error.message


async def test_a_format_whose_decoder_is_missing_says_so(fetcher: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC needs an extra: enabled without it, a HEIC is refused with what to install."""
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    async with Ingest(fetcher, ImagesConfig(formats=("png", "heic")), workers=1) as ingest:
        error = await refused(ingest, data_url(HEIC))
    assert error.message.endswith("Send a PNG, or have 'altgate[heic]' installed on the server.")


async def test_no_format_may_be_left(fetcher: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no decoder of those enabled is installed, pictures are refused in order."""
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    async with Ingest(fetcher, ImagesConfig(formats=("heic",)), workers=1) as ingest:
        assert (await refused(ingest, data_url(PICTURE))).code == "invalid_image_format"


async def test_the_limit_of_bytes_holds_for_base64(fetcher: FakeFetcher) -> None:
    """The configured limit is the one for data URLs, too."""
    async with Ingest(fetcher, ImagesConfig(max_bytes=Bytes(len(PICTURE) - 1)), workers=1) as ingest:
        assert (await refused(ingest, data_url(PICTURE))).code == "image_file_too_large"


async def test_the_limit_of_pixels_is_exact(fetcher: FakeFetcher) -> None:
    """The limit itself is allowed; one pixel less is not, and the picture's size is told. Nothing was decoded."""
    async with Ingest(fetcher, ImagesConfig(max_pixels=4800), workers=1) as ingest:
        await ingest.load(data_url(PICTURE), param=PARAM)
    async with Ingest(fetcher, ImagesConfig(max_pixels=4799), workers=1) as ingest:
        with pytest.raises(PictureError) as caught:
            await ingest.load(data_url(PICTURE), param=PARAM)
    assert caught.value.code == "image_too_large"
    assert "at most 4,799 pixels (width x height). It has 80 x 60." in caught.value.message


@pytest.mark.parametrize("size", [(101, 1), (1, 101), (10_000, 1), (1, 10_000)])
async def test_oblong_pictures_are_refused(ingest: Ingest, size: tuple[int, int]) -> None:
    """More than a hundred to one is no picture that a model can look at."""
    error = await refused(ingest, data_url(made.png(size)))
    assert error.code == "image_too_large"
    assert "at most 100 times its shorter one" in error.message


def test_pictures_are_not_printed() -> None:
    """A picture in a log line is its digest and header."""
    header = read(PICTURE)
    assert repr(Encoded(data=PICTURE, digest="ab", header=header)).startswith("Encoded(digest='ab', header=Header(")


async def test_large_pictures_are_read_off_the_loop(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base64 and digests of more than 256 KiB are worked on in a thread, smaller ones on the spot."""
    here, places = threading.get_ident(), []

    def noting(answer: object) -> Callable[..., object]:
        def work(*_: object, **__: object) -> object:
            places.append(threading.get_ident() == here)
            return answer

        return work

    for size in (1_000, 300_000):
        monkeypatch.setattr("gateway.images.data_url.decode", noting(PICTURE + bytes(size)))
        monkeypatch.setattr("gateway.images.ingest._digest", noting("digest"))
        await ingest.load("data:;base64," + "A" * size, param=PARAM)
    assert places == [True, True, False, False]


# --- handing over ----------------------------------------------------------------------------------------------------


async def test_an_engine_gets_what_we_wrote(ingest: Ingest) -> None:
    """A plain PNG, in the size of the model's square, or as it was where nobody knows the model."""
    for sizing, size in ((UNKNOWN, (80, 60)), (SQUARE, (64, 64))):
        kind, data = await handed(ingest, PICTURE, sizing)
        image = Image.open(BytesIO(data))
        assert (kind, image.mode, image.size) == ("image/png", "RGB", size)


async def test_every_way_in_gives_the_same_bytes(ingest: Ingest, fetcher: FakeFetcher) -> None:
    """The same picture by URL, as base64 and as a file in the command line is the same to an engine, byte for byte."""
    ways = ["https://good.example/a", data_url(PICTURE), data_url(PICTURE, "image/jpeg")]
    assert len({await given(ingest, way, SQUARE) for way in ways}) == 1
    assert fetcher.asked


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


async def test_a_picture_that_takes_too_long_is_refused(fetcher: FakeFetcher) -> None:
    """Its worker is killed, and the client told what to do."""
    async with Ingest(fetcher, ImagesConfig(decode_timeout=Seconds(0.001)), workers=1) as ingest:
        error = await refused(ingest, data_url(made.noise("png", (3000, 2000), compress_level=1)))
    assert error.code == "image_parse_error"
    assert (
        "takes too much time to decode. Send it in a simpler form, such as a plain JPEG, or smaller." in error.message
    )


async def test_a_picture_for_which_there_is_never_memory_is_refused(fetcher: FakeFetcher) -> None:
    """At once: to wait would not help."""
    async with Ingest(fetcher, ImagesConfig(max_decoded=Bytes(2**20)), workers=1) as ingest:
        error = await refused(ingest, data_url(PICTURE))
    assert "takes too much memory to decode" in error.message


async def test_a_request_leaves_memory_to_others(fetcher: FakeFetcher) -> None:
    """The pictures of one request take half of it at most at a time; they wait for each other, not others for them."""
    most = 400 * 2**20
    async with Ingest(fetcher, ImagesConfig(max_decoded=Bytes(most)), workers=4) as ingest:
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
async def test_plain_pictures_stay_as_they_are_where_that_is_wanted(fetcher: FakeFetcher, name: str) -> None:
    """With `images.handover = "original"` an engine gets their very bytes; all others are decoded as ever."""
    data = PLAIN.get(name) or NOT_PLAIN[name]
    async with Ingest(fetcher, ImagesConfig(handover="original"), workers=1) as ingest:
        picture = await ingest.load(data_url(data), param=PARAM)
        _, handed_over = content(await given(ingest, data_url(data), SMALL))
        note = ingest.note(picture, SMALL)
    assert (handed_over == data) is (name in PLAIN)
    assert bool(re.fullmatch(r"80x60 (jpeg|png) original", note)) is (name in PLAIN)


async def test_no_original_is_handed_over_by_default(ingest: Ingest) -> None:
    """Whatever a client sends, an engine decodes only what we wrote."""
    for data in PLAIN.values():
        assert (await handed(ingest, data))[1] != data


async def test_the_way_of_handing_over_is_in_the_name_of_our_work(fetcher: FakeFetcher) -> None:
    """Answers to differently made pictures are different answers."""
    configs = [ImagesConfig(), ImagesConfig(handover="original"), ImagesConfig(resize="exact")]
    assert len({Ingest(fetcher, config, workers=1).pipeline for config in configs}) == 3


# --- many at once ----------------------------------------------------------------------------------------------------


async def copies(ingest: Ingest, data: bytes, count: int) -> list[Encoded]:
    """That many pictures of the same pixels, each known by another digest."""
    return [await ingest.load(data_url(data + bytes([number])), param=PARAM) for number in range(count)]


async def test_too_many_pictures_are_told_to_come_back(fetcher: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 large ones at once: each gets its picture, or a time to come back."""
    monkeypatch.setattr(pool, "LONGEST_WAIT", 0.3)
    async with Ingest(fetcher, ImagesConfig(max_decoded=Bytes(300 * 2**20)), workers=2) as ingest:
        pictures = await copies(ingest, made.png((4000, 3000), color=2), 64)
        work = [ingest.hand_over(picture, SQUARE, ingest.lease(here=False), param=PARAM) for picture in pictures]
        results = await asyncio.gather(*work, return_exceptions=True)
        assert {type(result).__name__ for result in results} == {"str", "Overloaded"}
        assert ingest.pool.budget.free == ingest.pool.budget.size


def decodes(ingest: Ingest) -> int:
    """How many pictures its workers have answered about."""
    return sum(worker.done for worker in ingest.pool._staff._decoders)


@pytest.mark.parametrize("here", [False, True])
async def test_many_copies_at_once_are_decoded_once(fetcher: FakeFetcher, here: bool, tmp_path: Path) -> None:
    """Whoever asks for a picture that is being decoded shares it, also when the first who asked has left."""
    async with Ingest(fetcher, CONFIG, workers=2, shelf=Shelf(tmp_path)) as ingest:
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
    fetcher: FakeFetcher, here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While engines are slow, decoded pictures take no more than is set aside; later ones are told to come back."""
    monkeypatch.setattr("gateway.images.ingest.LONGEST_WAIT", 0.05)
    most = 40 * 2**20
    config = ImagesConfig(max_decoded=Bytes(most), resize="off")
    async with Ingest(fetcher, config, workers=2, shelf=Shelf(tmp_path)) as ingest:
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


async def test_the_pictures_of_a_request_wait_together(fetcher: FakeFetcher) -> None:
    """Else requests that have one each could wait for one another; what is never free is refused at once."""
    config = ImagesConfig(max_decoded=Bytes(40 * 2**20), resize="off")
    async with Ingest(fetcher, config, workers=1) as ingest:
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
