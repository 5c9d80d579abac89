"""Captions of files and URLs, without a server: the same way through, from the command line."""

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway import routing, wire
from gateway.auth import ANONYMOUS
from gateway.captioning import Captioner
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.parts import Parts

PRESET = "caption"
AT_ONCE = 8
PLACE = "messages[0].content[0].image_url.url"


class Caption(Struct, frozen=True, omit_defaults=True):
    """What became of one picture: its caption, or why there is none; `image` says what was done to it."""

    source: str
    model: str
    caption: str | None = None
    error: str | None = None
    image: str | None = None


async def captions(config: Config, model: str, sources: Sequence[str]) -> AsyncGenerator[Caption, None]:
    """The captions of files and http(s) URLs, in order, each as soon as it and all before it are there."""
    # Nobody else is waiting: the first use of a model may take as long as its download does.
    patient = msgspec.structs.replace(config.engines, cold_start_wait=config.engines.start_timeout)
    parts = Parts(msgspec.structs.replace(config, engines=patient))
    async with parts.running() as captioner:
        turns = asyncio.Semaphore(AT_ONCE)
        tasks = [asyncio.create_task(_caption(captioner, config, model, source, turns)) for source in sources]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()


async def _caption(captioner: Captioner, config: Config, model: str, source: str, turns: asyncio.Semaphore) -> Caption:
    async with turns:
        try:
            route = routing.choose(model, captioner.models, captioner.presets)
            url = await asyncio.to_thread(_url, source, config.images.max_bytes)
            task = PRESET if route.preset is None else None
            job = await captioner.prepare(_request(model, url, task), ANONYMOUS)
            answer = await captioner.answer(job)
        except (GatewayError, OSError) as error:
            return Caption(_shown(source), model, error=_sentence(error))
        return Caption(_shown(source), model, caption=answer.choices[0].message.content, image=job.record.notes[0])


def _shown(source: str) -> str:
    """A file's name as it can be printed, even when it is no UTF-8."""
    return os.fsencode(source).decode("utf-8", "replace")


def _request(model: str, url: str, task: str | None) -> wire.ChatRequest:
    picture = wire.PicturePart(wire.ImageURL(url))
    return wire.ChatRequest(
        model=model,
        messages=[wire.Message("user", [picture])],
        altgate=wire.AltgateOptions(task=task) if task else None,
    )


def _url(source: str, max_bytes: int) -> str:
    """A URL as it is; a file as a data URL."""
    if source.lower().startswith(("http://", "https://", "data:")):
        return source
    with Path(source).open("rb") as file:
        data = file.read(max_bytes + 1)  # what is no plain file does not tell its size
    if len(data) > max_bytes:
        raise OSError(0, f"the file is larger than {max_bytes / 2**20:.0f} MiB, the limit set by 'images.max_bytes'")
    return f"data:;base64,{base64.b64encode(data).decode('ascii')}"


def _sentence(error: GatewayError | OSError) -> str:
    """The error in the words of the command line, which knows no request and no routes."""
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    words = error.message.replace(f"at '{PLACE}' ", "").replace(f"'{PLACE}'", "it")
    return words.replace("GET /v1/models lists", "`altgate models` lists")
