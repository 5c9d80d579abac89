"""One picture by every way in: what its engine gets is the same to the byte."""

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests import pictures
from tests.detail import photograph
from tests.flows.raw import chat
from tests.flows.shared import ROOT, Fake
from tests.gateway.images import colour
from tests.gateway.images.made import exif
from tests.gateway.remote.servers import COMPLETION
from tests.pictures import data_url, message
from tests.services import running_server

# Turned, in a phone's colours, in several passes and larger than the model wants: all that is done is done to it.
PICTURE = pictures.encoded(
    photograph((800, 600)),
    "JPEG",
    exif=exif(6),
    progressive=True,
    icc_profile=colour.matrix_profile(colour.DISPLAY_P3),
)
TEXT = base64.b64encode(PICTURE).decode()
SPELLINGS = {
    "a data URL": data_url(PICTURE, "image/jpeg"),
    "with a wrong label": data_url(PICTURE, "image/png"),
    "in capitals, with parameters": f"DATA:image/jpeg;name=a.jpg;BASE64,{TEXT}",
    "in lines": "data:image/jpeg;base64," + base64.encodebytes(PICTURE).decode(),
    "URL-safe, without padding": "data:;base64," + base64.urlsafe_b64encode(PICTURE).decode().rstrip("="),
    "bare": TEXT,
}
SETTINGS = """
[engines]
preload = []
[images]
allowed_networks = ["127.0.0.1/32"]
allowed_ports = [{port}]
[models.m]
engine = "remote"
urls = ["{engine}"]
picture_rule = "square"
picture_size = 96
"""


@pytest.fixture
async def site() -> AsyncIterator[tuple[str, int]]:
    """A page that shows the picture and calls it something else, and its port."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=PICTURE, content_type="text/plain")

    application = web.Application()
    application.add_routes([web.get("/a", show)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}/a", port
    await runner.cleanup()


async def test_one_picture_is_one_picture_to_its_engine(tmp_path: Path, site: tuple[str, int]) -> None:
    """In base64 however it is spelled, by URL, and as a file or a URL of the command line."""
    url, port = site
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    async with Fake().running() as engine:
        engine.always = captioning
        settings = SETTINGS.format(port=port, engine=engine.url)
        told = await asyncio.to_thread(asked, tmp_path, settings, [*SPELLINGS.values(), url])
        told += await asyncio.to_thread(captioned, tmp_path, "a.jpg", url)

    given = [part for _, body in engine.requests for part in body["messages"][-1]["content"]]
    urls = [part["image_url"]["url"] for part in given if part["type"] == "image_url"]
    assert len(urls) == len(SPELLINGS) + 2  # the command line knows one picture when it sees it twice
    assert len(set(urls)) == 1
    assert told == ["800x600 jpeg exif=6 -> 96x96 fast"] * (len(SPELLINGS) + 3)


async def captioning(_: web.Request) -> web.StreamResponse:
    """An answer that the command line reads, too."""
    choice = {"index": 0, "message": {"role": "assistant", "content": '{"caption": "a cat"}'}, "finish_reason": "stop"}
    return web.json_response(COMPLETION | {"choices": [choice]})


def asked(folder: Path, settings: str, ways: list[str]) -> list[str]:
    """Sends each to a gateway; what it says that was done to the picture."""
    with running_server(folder, settings=settings) as server:
        answers = [chat(server, {"cache-control": "no-store"}, model="m", messages=[message(way)]) for way in ways]
    return [answer.headers["x-altgate-image"] for answer in answers]


def captioned(folder: Path, *sources: str) -> list[str]:
    """The same by the command line."""
    command = [sys.executable, "-m", "gateway.cli", "caption", "--verbose", "--model", "m", *sources]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True)
    return [line.partition(": ")[2] for line in done.stderr.splitlines() if " -> " in line]
