"""What writing, sending and reading a picture costs in each form: `python -m bench.forms`.

In milliseconds of the processor, ours and the engine's apart, for an engine has few threads for its pictures (BLIP's
two). Ours is to write the picture, to put it into a request (base64 and JSON) or to name its file in memory, and to
send that over a socket; the engine's is to receive, to take it out again and to make RGB of it with Pillow. The forms
are those of `bench.handover`, which measures the whole way through real engines.

The second table begins with a JPEG, a small one and one of 12 megapixels: what our worker makes of it for a model comes
on our side; "as it is" hands the JPEG itself over, and the engine decodes and resizes it.
"""

import argparse
import base64
import io
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pybase64
from PIL import Image

from bench.handover import FORMS, SIZES, Write, pictures
from gateway import allocator
from gateway.images import header, pixels
from gateway.images.plan import Sizing, plan
from gateway.images.worker import KEPT
from tests.detail import photograph
from tests.gateway.images.made import saved

FILES = ("ppm", "bmp", "png")
SOURCES = {"a small JPEG": (640, 480), "a JPEG of 12 MP": (4032, 3024)}
MODELS = {"BLIP's 384": Sizing("square", 384), "Gemma 3's 896": Sizing("square", 896, "bilinear")}


@dataclass(frozen=True)
class Way:
    """A form, in base64 or as a file in memory."""

    form: str
    write: Write
    by_file: bool = False

    def __str__(self) -> str:
        return f"{self.form}, {'a file' if self.by_file else 'base64'}"


WAYS = [*(Way(form, write) for form, write in FORMS.items()), *(Way(form, FORMS[form], by_file=True) for form in FILES)]


class Engine(threading.Thread):
    """Reads pictures as engines do; `took` has how long, in seconds of its thread. `finish` is what else it does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.ours, self._theirs = socket.socketpair()
        self.took: SimpleQueue[float] = SimpleQueue()
        self.folder = folder
        self.finish: Callable[[Image.Image], object] = Image.Image.copy
        self.start()

    def run(self) -> None:
        """Until the socket is closed."""
        stream = self._theirs.makefile("rb")
        while head := stream.read(8):
            begun = time.thread_time()
            url = json.loads(stream.read(int.from_bytes(head, "big")))["url"]
            data = Path(url[7:]).read_bytes() if url.startswith("file:") else base64.b64decode(url.partition(",")[2])
            self.finish(Image.open(io.BytesIO(data)).convert("RGB"))
            self.took.put(time.thread_time() - begun)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    rounds = parser.parse_args().rounds
    allocator.keep_freed(KEPT)  # as in our processes
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        engine = Engine(Path(folder))
        print(f"{'':34}{'ours':>10}{'engine':>10}{'both':>10}")
        for size in SIZES:
            made = [next(pictures(size)) for _ in range(3)]
            works = [(str(way), partial(handed, engine, way, made)) for way in WAYS]
            print_rows(f"{size[0]} x {size[1]}", works, rounds)
        for name, size in SOURCES.items():
            data = saved(photograph(size), "JPEG", quality=85)
            for model, sizing in MODELS.items():
                print_rows(f"{name}, {model}", [*of_source(engine, data, sizing)], rounds)


def of_source(engine: Engine, data: bytes, sizing: Sizing) -> Iterable[tuple[str, Callable[[], tuple[float, float]]]]:
    """Each way from a JPEG to the pixels that a model sees, with its name."""
    yield "as it is, base64", partial(as_it_is, engine, data, sizing)
    for way in WAYS:
        yield str(way), partial(rendered, engine, way, data, sizing)


def handed(engine: Engine, way: Way, images: list[Image.Image]) -> tuple[float, float]:
    """Hands a picture over; our seconds and the engine's."""
    image = images[0]
    images.append(images.pop(0))
    engine.finish = Image.Image.copy
    begun = time.thread_time()
    deliver(engine, way, way.write(image))
    return time.thread_time() - begun, engine.took.get()


def rendered(engine: Engine, way: Way, data: bytes, sizing: Sizing) -> tuple[float, float]:
    """The same from a JPEG, which our worker decodes and resizes."""
    engine.finish = Image.Image.copy
    begun = time.thread_time()
    head = header.read(data)
    deliver(engine, way, way.write(pixels.render(data, head.format, plan(head, sizing, "fast"))))
    return time.thread_time() - begun, engine.took.get()


def as_it_is(engine: Engine, data: bytes, sizing: Sizing) -> tuple[float, float]:
    """The JPEG itself, which the engine decodes and resizes."""
    engine.finish = partial(
        Image.Image.resize, size=(sizing.side,) * 2, resample=Image.Resampling[sizing.filter.upper()]
    )
    begun = time.thread_time()
    deliver(engine, Way("jpeg", FORMS["jpeg"]), data)
    return time.thread_time() - begun, engine.took.get()


def deliver(engine: Engine, way: Way, data: bytes) -> None:
    """Sends a picture's file, or its name."""
    if way.by_file:
        file = engine.folder / "picture"
        file.write_bytes(data)
        url = f"file://{file}"
    else:
        url = f"data:image/any;base64,{pybase64.b64encode_as_string(data)}"
    body = json.dumps({"url": url}).encode()
    engine.ours.sendall(len(body).to_bytes(8, "big") + body)


def print_rows(title: str, works: Sequence[tuple[str, Callable[[], tuple[float, float]]]], rounds: int) -> None:
    """Medians of all works, which take turns."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in works}
    for _ in range(rounds + 1):
        for name, work in works:
            took[name].append(work())
    print(title)
    for name, times in took.items():
        ours, theirs = (statistics.median(column) * 1000 for column in zip(*times[1:], strict=True))
        print(f"    {name:30}{ours:10.1f}{theirs:10.1f}{ours + theirs:10.1f}", flush=True)


if __name__ == "__main__":
    main()
