"""In which form an engine is best given a picture: `python -m bench.handover`.

Pictures of the sizes that engines get are written in each form and sent to a real engine, a tiny Gemma 3 on vLLM and
the demo model on the BLIP engine, past the gateway; the answer is one token. Measured is the time from the pixels to
the answer, by the clock and of the processor, ours and the engine's: writing, base64, JSON, the socket, the engine's
reading and its model. The models are tiny, so that what is measured is the way; a real one takes as long in all forms.
`bench.forms` measures the way without the engines.

png, bmp, ppm   exact, without compression, as `gateway.images.encode` writes them
webp            exact, compressed without loss as fast as can be
jpeg            quality 95: not exact
... as a file   in a private folder in memory, by a URL of the scheme `file`

The forms take turns, so that all meet the same machine. The difference in pixels is that of a decoded picture from what
was written, in levels of 255.
"""

import argparse
import asyncio
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import pybase64
from PIL import Image

from engines.vllm.command import Served, command, environment
from gateway.images import encode
from tests.engines.vllm import tiny

MODEL = "model"
SIZES = ((384, 384), (896, 896), (2016, 1512))
NOT_READ = {"blip": ["bmp"], "vllm": []}
READY_WITHIN = 180.0  # seconds

Write = Callable[[Image.Image], bytes]


@dataclass(frozen=True)
class Engine:
    """One that runs, and a session with it."""

    kind: str
    session: aiohttp.ClientSession
    pid: int

    def processor_time(self) -> float:
        """What it has taken of the processor, and we, in seconds."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return time.process_time() + sum(int(file.read_text().split()[0]) for file in threads) / 1e9


def exact(form: encode.Form) -> Write:
    """The gateway's own writing."""

    def write(image: Image.Image) -> bytes:
        return b"".join(encode.pieces(image, form))

    return write


def saved(kind: str, **options: object) -> Write:
    """Pillow's writing."""

    def write(image: Image.Image) -> bytes:
        target = io.BytesIO()
        image.save(target, kind, **options)
        return target.getvalue()

    return write


FORMS: dict[str, Write] = {
    "png": exact("png"),
    "bmp": exact("bmp"),
    "ppm": exact("ppm"),
    "webp": saved("WEBP", lossless=True, quality=0, method=0),
    "jpeg": saved("JPEG", quality=95, subsampling=0),
}


def main() -> None:
    """Prints a table for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "blip"], nargs="+", default=["blip", "vllm"])
    parser.add_argument("--rounds", type=int, default=15, help="requests in each form (%(default)s)")
    options = parser.parse_args()
    for engine in options.engine:
        asyncio.run(measured(engine, options.rounds))


async def measured(engine: str, rounds: int) -> None:
    """Prints the table of one engine: medians in milliseconds."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        async with running(engine, Path(name), Path(memory)) as ready:
            for size in SIZES:
                await print_table(ready, size, Path(memory), rounds)


async def print_table(engine: Engine, size: tuple[int, int], memory: Path, rounds: int) -> None:
    """Prints what each form takes for pictures of one size."""
    drawn = pictures(size)
    forms = [form for form in FORMS if form not in NOT_READ[engine.kind]]
    ways = [(form, False) for form in forms] + [(form, True) for form in ("png", "ppm")]
    took: dict[tuple[str, bool], list[tuple[float, float]]] = {way: [] for way in ways}
    for way in ways * (rounds + 1):
        form, by_file = way
        took[way].append(await one(engine, next(drawn), FORMS[form], memory if by_file else None))
    image = next(drawn)
    for form, by_file in ways:
        data = FORMS[form](image)
        levels = np.abs(np.asarray(Image.open(io.BytesIO(data)), np.int16) - np.asarray(image, np.int16))
        clock, processor = (statistics.median(each) * 1000 for each in zip(*took[form, by_file][1:], strict=True))
        print(
            f"{engine.kind:5}{size[0]:5} x {size[1]:<5}{form:5}{'as a file' if by_file else 'in base64'}"
            f"{clock:8.1f} ms{processor:8.1f} ms of the processor{len(data) / 1000:8.0f} kB"
            f"   difference: mean {levels.mean():.2f}, largest {levels.max()}",
            flush=True,
        )


async def one(engine: Engine, image: Image.Image, write: Write, memory: Path | None) -> tuple[float, float]:
    """Seconds from the pixels to the answer: of the clock, and of the processor in both processes."""
    worked, began = engine.processor_time(), time.perf_counter()
    data, file = write(image), None
    if memory is None:
        url = f"data:image/any;base64,{pybase64.b64encode_as_string(data)}"
    else:
        file = memory / f"{time.monotonic_ns():x}"
        file.write_bytes(data)
        url = f"file://{file}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {"model": MODEL, "max_tokens": 1, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    headers = {"content-type": "application/json"}
    async with engine.session.post("chat/completions", data=json.dumps(body).encode(), headers=headers) as response:
        answer = await response.read()
        assert response.ok, answer[:500]
    took = time.perf_counter() - began, engine.processor_time() - worked
    if file is not None:
        file.unlink()
    return took


def pictures(size: tuple[int, int]) -> Iterator[Image.Image]:
    """Pictures without end, each another, with about the detail of a photograph."""
    for seed in itertools.count():
        draw = np.random.default_rng(seed)
        coarse = Image.fromarray(draw.integers(0, 256, (size[1] // 12, size[0] // 12, 3), np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
        yield Image.fromarray((smooth + draw.integers(-6, 7, smooth.shape, np.int16)).clip(0, 255).astype(np.uint8))


@asynccontextmanager
async def running(engine: str, folder: Path, memory: Path) -> AsyncIterator[Engine]:
    """An engine that is ready."""
    socket = folder / "engine.sock"
    environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
    if engine == "vllm":
        (folder / "gemma").mkdir()
        own = ["--enforce-eager", "--dtype=float32", "--distributed-executor-backend=uni"]
        served = Served(
            folder=tiny.gemma3(folder / "gemma"), tokenizer=None, kind="gemma3", name=MODEL, place=socket,
            max_model_len=1024, max_pictures=1, max_pixels=50_000_000,
            options=[*own, f"--allowed-local-media-path={memory}"],
        )  # fmt: skip
        words, environ = command(served), environment(served, environ)
    else:
        checkpoint = Path(__file__).parents[1] / "engines" / "demo" / "checkpoint"
        words = [
            *(sys.executable, "-m", "engines.blip"),
            f"--source={checkpoint}",
            f"--model={MODEL}",
            f"--uds={socket}",
            f"--pictures={memory}",
        ]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*words, env=environ, stdout=quiet, stderr=quiet)
    try:
        async with aiohttp.ClientSession("http://engine/v1/", connector=aiohttp.UnixConnector(str(socket))) as session:
            await until_ready(session)
            yield Engine(engine, session, process.pid)
    finally:
        process.terminate()
        await process.wait()


async def until_ready(session: aiohttp.ClientSession) -> None:
    """Returns when the engine says that it is ready."""
    async with asyncio.timeout(READY_WITHIN):
        while True:
            try:
                async with session.get("/health") as response:
                    if response.ok:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    main()
