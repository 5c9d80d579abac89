"""From what a client wrote to a known picture, without holding anybody else up."""

import asyncio
import base64
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from io import BytesIO

import pytest
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import PictureError
from gateway.images import normalize
from gateway.images.ingest import Encoded, Ingest
from gateway.values import Bytes

PARAM = "messages[0].content[1].image_url.url"
CONFIG = ImagesConfig()


def encoded(size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG."""
    target = BytesIO()
    Image.effect_noise(size, 50).save(target, "PNG")
    return target.getvalue()


PICTURE = encoded()


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
    async with Ingest(fetcher, CONFIG) as ingest:
        yield ingest


async def test_one_picture_is_known_by_its_bytes(ingest: Ingest, fetcher: FakeFetcher) -> None:
    """By URL, as a data URL and as bare base64 it is the same picture, under the same digest."""
    text = base64.b64encode(PICTURE).decode()
    urls = ["https://good.example/a", "HTTP://good.example/b", f"data:image/jpeg;base64,{text}", text]
    pictures = [await ingest.load(url, param=PARAM) for url in urls]
    assert set(pictures) == {Encoded(data=PICTURE, digest=hashlib.sha256(PICTURE).hexdigest(), format="png")}
    assert fetcher.asked == [(url, PARAM) for url in urls[:2]]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png;base64,", "empty_image_file"),
        ("data:image/png;base64,%", "invalid_base64_image"),
        ("data:image/png;base64,PGh0bWw+", "invalid_image_format"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("/etc/passwd", "invalid_image_url"),
        ("", "invalid_image_url"),
    ],
)
async def test_refusals_name_the_place(ingest: Ingest, fetcher: FakeFetcher, url: str, code: str) -> None:
    """Whatever is refused, the error says where it stood; nothing was fetched."""
    with pytest.raises(PictureError) as caught:
        await ingest.load(url, param=PARAM)
    assert (caught.value.code, caught.value.param) == (code, PARAM)
    assert fetcher.asked == []


async def test_what_was_fetched_must_be_a_picture(ingest: Ingest, fetcher: FakeFetcher) -> None:
    """A page at the URL is refused with the name of what it is."""
    fetcher.body = b"<!doctype html><p>Log in"
    with pytest.raises(PictureError, match="is an HTML page"):
        await ingest.load("https://good.example/a.png", param=PARAM)


async def test_the_limit_of_bytes_holds_for_base64(fetcher: FakeFetcher) -> None:
    """The configured limit is the one for data URLs, too."""
    async with Ingest(fetcher, ImagesConfig(max_bytes=Bytes(len(PICTURE) - 1))) as ingest:
        with pytest.raises(PictureError) as caught:
            await ingest.load("data:;base64," + base64.b64encode(PICTURE).decode(), param=PARAM)
    assert caught.value.code == "image_file_too_large"


def test_pictures_are_not_printed() -> None:
    """A picture in a log line is its digest and format."""
    assert repr(Encoded(data=PICTURE, digest="ab", format="png")) == "Encoded(digest='ab', format='png')"


async def test_normalising_gives_a_plain_png(ingest: Ingest) -> None:
    """The result is RGB, and shrunk for the model's side."""
    picture = await ingest.load("data:;base64," + base64.b64encode(encoded((64, 48))).decode(), param=PARAM)
    for floor, size in ((None, (64, 48)), (6, (16, 12))):
        result = Image.open(BytesIO(await ingest.normalize(picture, floor=floor, param=PARAM)))
        assert (result.mode, result.size) == ("RGB", size)


async def test_normalising_keeps_the_limit_of_pixels(fetcher: FakeFetcher) -> None:
    """The configured limit is checked, and the refusal names the place."""
    async with Ingest(fetcher, ImagesConfig(max_pixels=63)) as ingest:
        picture = await ingest.load("https://good.example/a", param=PARAM)
        with pytest.raises(PictureError) as caught:
            await ingest.normalize(picture, floor=None, param=PARAM)
    assert (caught.value.code, caught.value.param) == ("image_too_large", PARAM)


async def test_decodes_are_bounded_and_off_the_loop(fetcher: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two processors two pictures are decoded at once; the third waits, and the loop stays free meanwhile."""
    release, entered, lock = threading.Event(), threading.Semaphore(0), threading.Lock()
    running = most = 0

    def decode(*_: object, **__: object) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        entered.release()
        release.wait(10)
        with lock:
            running -= 1
        return b""

    monkeypatch.setattr(normalize, "normalize", decode)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    async with Ingest(fetcher, CONFIG) as ingest:
        picture = await ingest.load("https://good.example/a", param=PARAM)
        work = [asyncio.create_task(ingest.normalize(picture, floor=None, param=PARAM)) for _ in range(5)]
        await asyncio.sleep(0)
        for _ in range(2):
            await asyncio.to_thread(entered.acquire)
        work.pop().cancel()
        release.set()
        assert await asyncio.gather(*work) == [b""] * 4
    assert most == 2


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
