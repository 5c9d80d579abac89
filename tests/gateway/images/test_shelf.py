"""Pictures as files in memory: who may find them, how long they lie there, and what a killed gateway leaves."""

import asyncio
import base64
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from gateway.config import ImagesConfig
from gateway.folder import sweep
from gateway.images import shelf as shelving
from gateway.images.budget import Budget
from gateway.images.ingest import Ingest
from gateway.images.plan import Sizing
from gateway.images.shelf import MEMORY, PREFIX, Lease, Place, Shelf

from . import made
from .ingests import NoSource

PARAM = "messages[0].content[1].image_url.url"
MODEL = Sizing("square", 64)
PICTURE = f"data:;base64,{base64.b64encode(made.PICTURES['png']).decode()}"


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """A shelf of the test's own."""
    with Shelf(tmp_path) as made:
        yield made


@pytest.fixture
async def ingest(tmp_path: Path) -> AsyncIterator[Ingest]:
    """An ingest with a shelf of its own."""
    async with Ingest(NoSource(), ImagesConfig(), workers=1, shelf=Shelf(tmp_path)) as running:
        yield running


async def handed(ingest: Ingest, lease: Lease) -> str:
    """The URL under which an engine gets the picture."""
    picture = await ingest.load(PICTURE, param=PARAM)
    return await ingest.hand_over(picture, MODEL, lease, param=PARAM)


def files(ingest: Ingest) -> list[str]:
    """What lies on the shelf."""
    return sorted(path.name for path in ingest.shelf.folder.iterdir())


async def test_an_engine_here_gets_a_name(ingest: Ingest) -> None:
    """Of a file with plain pixels, in a folder that is ours alone; when its request is over, the file is gone."""
    with ingest.lease(here=True) as lease:
        url = await handed(ingest, lease)
        file = Path(url.removeprefix("file://"))
        digest = (await ingest.load(PICTURE, param=PARAM)).digest
        assert file.name.startswith(f"{digest}-")
        assert file.parent == ingest.shelf.folder
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        image = Image.open(file, formats=["PPM"])
        assert (image.mode, image.size) == ("RGB", (64, 64))
        image.load()
    assert files(ingest) == []


async def test_it_is_the_same_picture_as_elsewhere(ingest: Ingest) -> None:
    """Pixel for pixel, whether it goes as a file or as a PNG in base64."""
    with ingest.lease(here=True) as here, ingest.lease(here=False) as elsewhere:
        file = Path((await handed(ingest, here)).removeprefix("file://"))
        png = base64.b64decode((await handed(ingest, elsewhere)).partition(",")[2])
        assert Image.open(BytesIO(png)).tobytes() == Image.open(BytesIO(file.read_bytes())).tobytes()


async def test_a_picture_in_use_is_not_decoded_again(ingest: Ingest) -> None:
    """A second request finds it there, and it stays until both are over."""
    with ingest.lease(here=True) as first:
        url = await handed(ingest, first)
        with ingest.lease(here=True) as second:
            assert await handed(ingest, second) == url
            assert [worker.done for worker in ingest.pool._staff._decoders if worker.done] == [1]
        assert len(files(ingest)) == 1
    assert files(ingest) == []


async def test_the_same_picture_twice_at_once(ingest: Ingest) -> None:
    """Whoever is first, both have it, and nothing is left."""
    with ingest.lease(here=True) as lease:
        urls = await asyncio.gather(handed(ingest, lease), handed(ingest, lease))
        assert len(set(urls)) == 1
        assert len(files(ingest)) == 1
    assert files(ingest) == []


async def test_a_client_that_leaves_while_its_picture_decodes_leaves_nothing(ingest: Ingest) -> None:
    """Neither a half-written file nor one that nobody uses."""
    for pause in (0, 0.001, 0.003, 0.01):
        with ingest.lease(here=True) as lease:
            work = asyncio.create_task(handed(ingest, lease))
            await asyncio.sleep(pause)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
    async with asyncio.timeout(30):
        while ingest.pool._tasks:
            await asyncio.sleep(0.01)
    assert files(ingest) == []


async def test_a_worker_that_dies_leaves_nothing(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that it was at is removed."""
    with ingest.lease(here=True) as lease:
        work = asyncio.create_task(handed(ingest, lease))
        async with asyncio.timeout(30):
            while not files(ingest):
                await asyncio.sleep(0)
        for worker in ingest.pool._staff._decoders:
            os.kill(worker.pid, signal.SIGKILL)
        await asyncio.gather(work, return_exceptions=True)
        assert len(files(ingest)) <= 1  # it may have been done before
    assert files(ingest) == []


async def test_without_room_it_goes_in_the_request(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have little of that memory: when it is full, the pixels travel with the request."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Place, "reserve", full)
    with ingest.lease(here=True) as lease:
        assert (await handed(ingest, lease)).startswith("data:image/x-portable-pixmap;base64,UDYK")
    assert files(ingest) == []


async def test_where_there_is_no_such_folder_it_goes_in_the_request(tmp_path: Path) -> None:
    """Not every system keeps files in memory."""
    async with Ingest(NoSource(), ImagesConfig(), workers=1, shelf=Shelf(tmp_path / "none")) as ingest:
        with ingest.lease(here=True) as lease:
            assert (await handed(ingest, lease)).startswith("data:image/x-portable-pixmap;base64,UDYK")


def test_the_folder_goes_with_the_gateway(tmp_path: Path) -> None:
    """With whatever lies in it."""
    with Shelf(tmp_path) as shelf:
        (shelf.folder / "left").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


HELD = """
import sys, time
from pathlib import Path
from gateway.images.shelf import Shelf
with Shelf(Path(sys.argv[1])) as shelf:
    (shelf.folder / "picture").write_bytes(b"x")
    print(shelf.folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_gateway_left_is_swept_away(tmp_path: Path) -> None:
    """By the next one to start, and never the folder of one that lives."""
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        sweep(tmp_path, PREFIX)
        assert (folder / "picture").exists()
        process.kill()
    with Shelf(tmp_path) as shelf:
        assert list(tmp_path.iterdir()) == [shelf.folder]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Whoever can write to the memory of all cannot have us remove what is elsewhere."""
    (tmp_path / "root").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "root" / f"{PREFIX}0").symlink_to(tmp_path / "precious")
    sweep(tmp_path / "root", PREFIX)
    assert (tmp_path / "precious").exists()


def test_a_lease_that_has_ended_takes_nothing(shelf: Shelf) -> None:
    """What is decoded for it afterwards is removed at once."""
    with Lease(Budget(1), Budget(1), shelf) as lease:
        pass
    (shelf.folder / "late").write_bytes(b"x")
    lease.take("late")
    assert list(shelf.folder.iterdir()) == []


def test_it_is_in_memory() -> None:
    """Where Linux keeps such files."""
    assert Path("/dev/shm") == MEMORY == shelving.MEMORY
