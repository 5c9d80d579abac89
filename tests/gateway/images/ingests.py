"""What the tests of the ingest share: a web with one picture in it, data URLs, and what an engine gets of them."""

import base64

import pytest

from gateway.config import ImagesConfig
from gateway.errors import PictureError
from gateway.images.ingest import Encoded, Ingest
from gateway.images.plan import Sizing

from . import made

PARAM = "messages[0].content[1].image_url.url"
CONFIG = ImagesConfig()
PICTURE = made.noise("png", (80, 60))
SQUARE, UNKNOWN = Sizing("square", 64), Sizing(None, 1024)


class FakeFetcher:
    """Has one thing at every URL, and notes what was asked for."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked: list[tuple[str, str]] = []

    async def fetch(self, url: str, *, param: str) -> bytes:
        self.asked.append((url, param))
        return self.body


class NoSource:
    """Nothing is fetched here."""

    async def fetch(self, url: str, *, param: str) -> bytes:
        raise AssertionError("something was fetched")


def data_url(data: bytes, kind: str = "") -> str:
    """The picture as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def content(url: str) -> tuple[str, bytes]:
    """The media type and the bytes of a data URL."""
    head, _, text = url.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(text)


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


async def copies(ingest: Ingest, data: bytes, count: int) -> list[Encoded]:
    """That many pictures of the same pixels, each known by another digest, so that none shares another's decoding."""
    names = (number.to_bytes(4, "big") for number in range(count))
    return [await ingest.load(data_url(data + name), param=PARAM) for name in names]
