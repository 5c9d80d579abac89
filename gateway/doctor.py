"""`altgate check`: what is wrong with the configuration or the environment, and how to mend it."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from msgspec import Struct

from gateway import inventory, prompts
from gateway.catalogue import Model
from gateway.config import Config
from gateway.images import installed
from gateway.images.pool import Pool
from gateway.machine import LONGEST, longest_socket
from gateway.redis import Link
from gateway.usage import place

IMPORT_TIMEOUT = 120  # seconds
START_TIMEOUT = 20  # seconds
VERSIONS = "import torch, transformers; print(torch.__version__, transformers.__version__, torch.cuda.is_available())"


class Finding(Struct, frozen=True):
    """One thing looked at; `remedy` is set where it is not well. What nobody asked for is `optional`."""

    what: str
    remedy: str | None = None
    optional: bool = False


def findings(config: Config) -> Iterator[Finding]:
    """Everything looked at, in the order in which a request would meet it."""
    yield Finding(f"Python {sys.version.split()[0]}")
    yield Finding(f"configuration: {len(config.models)} models, {len(prompts.load())} presets, {len(config.keys)} keys")
    yield _port(config)
    yield _cache(config)
    yield _usage(config)
    yield _sockets(config)
    yield _sandbox(config)
    yield from _decoders(config)
    yield _transformers(wanted=any(model.engine == "blip" for model in config.models if _is_wanted(model, config)))
    for model in config.models:
        found = inventory.availability(model)
        remedy = None if found.ok else found.remedy
        yield Finding(f"{model.name}: {found.state}", remedy, optional=not _is_wanted(model, config))


def _is_wanted(model: Model, config: Config) -> bool:
    return bool(config.wanted & {model.name, *model.aliases})


def _port(config: Config) -> Finding:
    host, port = config.server.host, config.server.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = "stop what listens there, or choose another 'server.port'"
            return Finding(f"{host}:{port} cannot be listened on ({error.strerror})", remedy)
    return Finding(f"{host}:{port} is free")


def _cache(config: Config) -> Finding:
    if config.cache.redis is None:
        return Finding("cache: in memory")
    if asyncio.run(_answers(config.cache.redis)):
        return Finding("cache: Redis answers")
    return Finding("cache: Redis does not answer", "start it, or correct 'cache.redis'")


def _usage(config: Config) -> Finding:
    if config.cache.redis is not None:
        return Finding("usage: kept in Redis")
    file = place.path(config.usage, os.environ)
    there = next(path for path in (file, *file.parents) if path.exists())
    if os.access(there, os.W_OK) and there.is_file() is (there == file):
        return Finding(f"usage: kept in {file}")
    remedy = "set 'usage.path' to a file that can be written, or it is lost at each restart"
    return Finding(f"usage cannot be kept in {file}", remedy, optional=config.usage.path is None)


def _sockets(config: Config) -> Finding:
    folder = tempfile.gettempdir()
    longest = longest_socket(len(config.models))
    if longest <= LONGEST:
        return Finding(f"engines: their sockets lie in {folder}")
    remedy = f"set TMPDIR to a folder with a shorter path, such as /tmp: {LONGEST} bytes are the most"
    return Finding(f"the sockets of engines cannot lie in {folder}: their paths would have {longest} bytes", remedy)


async def _answers(url: str) -> bool:
    async with Link(url) as link:
        return not link.is_down


def _sandbox(config: Config) -> Finding:
    """Starts a worker that decodes pictures, as the gateway does."""
    what = "pictures are decoded in processes of their own"
    try:
        filtered = asyncio.run(_is_filtered(config))
    except TimeoutError:
        return Finding(
            "the processes that decode pictures do not start", "reinstall altgate: Pillow cannot be imported"
        )
    if filtered:
        return Finding(f"{what}, which the kernel keeps from all else")
    remedy = "run on Linux (x86_64 or aarch64) and allow seccomp, so that a flaw in a decoder gives access to nothing"
    return Finding(f"{what}, but the kernel does not keep those from files and the network", remedy, optional=True)


def _decoders(config: Config) -> Iterator[Finding]:
    for kind in installed.missing(config.images.formats):
        remedy = f"install altgate[{kind}], or take it out of 'images.formats'"
        yield Finding(f"pictures in the format '{kind}' are enabled, but their decoder is not installed", remedy)


async def _is_filtered(config: Config) -> bool:
    async with (
        asyncio.timeout(START_TIMEOUT),
        Pool(config.images.formats, most_memory=config.images.max_decoded) as pool,
    ):
        return await pool.is_filtered()


def _transformers(*, wanted: bool) -> Finding:
    """Imports what the BLIP engine imports, in a process of its own, as it does; `wanted` by a model of ours."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, with a constant
            [sys.executable, "-c", VERSIONS],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=True,
            env=dict(os.environ),
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return Finding("PyTorch and Transformers cannot be imported", inventory.INSTALL["blip"], optional=not wanted)
    torch, transformers, cuda = done.stdout.split()
    return Finding(f"PyTorch {torch}, Transformers {transformers}, {'with' if cuda == 'True' else 'no'} CUDA device")
