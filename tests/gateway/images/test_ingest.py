"""From what a client wrote to a known picture."""

import asyncio
import base64
import hashlib
import threading
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gateway.config import ImagesConfig
from gateway.errors import PictureError
from gateway.images import installed
from gateway.images.header import read
from gateway.images.ingest import Encoded, Ingest
from gateway.values import Bytes

from . import made
from .ingests import PARAM, PICTURE, FakeFetcher, NoSource, data_url, handed, refused


async def test_one_picture_is_known_by_its_bytes(ingest: Ingest, web: FakeFetcher) -> None:
    """By URL, as a data URL and as bare base64 it is the same picture, under the same digest."""
    text = base64.b64encode(PICTURE).decode()
    urls = ["https://good.example/a", "HTTP://good.example/b", f"data:image/jpeg;base64,{text}", text]
    pictures = [await ingest.load(url, param=PARAM) for url in urls]
    assert {picture.digest for picture in pictures} == {hashlib.sha256(PICTURE).hexdigest()}
    assert {picture.data for picture in pictures} == {PICTURE}
    assert web.asked == [(url, PARAM) for url in urls[:2]]


ASLEEP = Ingest(NoSource(), ImagesConfig(), workers=1)  # which decodes nothing


def in_lines(data: bytes) -> str:
    """As mail programs write base64."""
    return "data:image/png;base64," + base64.encodebytes(data).decode()


def url_safe(data: bytes) -> str:
    """As web programs write it, without padding."""
    return "data:;base64," + base64.urlsafe_b64encode(data).decode().rstrip("=")


def bare(data: bytes) -> str:
    """Without a word of what it is."""
    return base64.b64encode(data).decode()


@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from([data_url, in_lines, url_safe, bare]))
def test_a_digest_is_of_the_bytes_alone(one: bytes, other: bytes, spelled: Callable[[bytes], str]) -> None:
    """However they are spelled, the same bytes are one picture, and other bytes another."""

    async def digests(*urls: str) -> list[str]:
        return [(await ASLEEP.load(url, param=PARAM)).digest for url in urls]

    found, plain = asyncio.run(digests(spelled(PICTURE + one), data_url(PICTURE + other)))
    assert found == hashlib.sha256(PICTURE + one).hexdigest()
    assert (found == plain) is (one == other)


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
async def test_refusals_name_the_place(ingest: Ingest, web: FakeFetcher, url: str, code: str) -> None:
    """Whatever is refused, the error says where it stood; nothing was fetched."""
    assert (await refused(ingest, url)).code == code
    assert web.asked == []


PAGE = b"<!doctype html><p>Log in"
HEIC = made.PICTURES["heic"]
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
    ingest: Ingest, web: FakeFetcher, url: str, body: bytes, sentence: str
) -> None:
    """A page behind a URL, a wrong label, a format that could be enabled: whoever reads it knows what to do."""
    web.body = body
    error = await refused(ingest, url)
    assert (error.code, error.message) == ("invalid_image_format", sentence)


@pytest.mark.parametrize("kind", ["tiff", "bmp", "heic"])
async def test_formats_can_be_enabled_and_left_out(web: FakeFetcher, kind: str) -> None:
    """What is in `images.formats` is read; the sentence lists that and nothing else."""
    config = ImagesConfig(formats=("jpeg", kind))  # type: ignore[arg-type]
    async with Ingest(web, config, workers=1) as ingest:
        _, data = await handed(ingest, made.PICTURES[kind])  # type: ignore[index]
        assert Image.open(BytesIO(data)).mode == "RGB"
        error = await refused(ingest, data_url(PICTURE))
        assert f"are a PNG picture. Send a JPEG or {kind.upper()}, or have it enabled" in error.message


async def test_a_format_whose_decoder_is_missing_says_so(web: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC needs an extra: enabled without it, a HEIC is refused with what to install."""
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    async with Ingest(web, ImagesConfig(formats=("png", "heic")), workers=1) as ingest:
        error = await refused(ingest, data_url(HEIC))
    assert error.message.endswith("Send a PNG, or have 'altgate[heic]' installed on the server.")


async def test_no_format_may_be_left(web: FakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no decoder of those enabled is installed, pictures are refused in order."""
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    async with Ingest(web, ImagesConfig(formats=("heic",)), workers=1) as ingest:
        assert (await refused(ingest, data_url(PICTURE))).code == "invalid_image_format"


async def test_the_limit_of_bytes_holds_for_base64(web: FakeFetcher) -> None:
    """The configured limit is the one for data URLs, too."""
    async with Ingest(web, ImagesConfig(max_bytes=Bytes(len(PICTURE) - 1)), workers=1) as ingest:
        assert (await refused(ingest, data_url(PICTURE))).code == "image_file_too_large"


async def test_the_limit_of_pixels_is_exact(web: FakeFetcher) -> None:
    """The limit itself is allowed; one pixel less is not, and the picture's size is told. Nothing was decoded."""
    async with Ingest(web, ImagesConfig(max_pixels=4800), workers=1) as ingest:
        await ingest.load(data_url(PICTURE), param=PARAM)
    async with Ingest(web, ImagesConfig(max_pixels=4799), workers=1) as ingest:
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
