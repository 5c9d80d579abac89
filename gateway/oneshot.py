"""Captions of files and URLs, without a server: the same way through, from the command line."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway import routing, wire
from gateway.captioning import Captioner
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.parts import Parts

PRESET = "caption"
AT_ONCE = 8


class Caption(Struct, frozen=True, omit_defaults=True):
    """What became of one picture: its caption, or the sentence that says why there is none."""

    source: str
    model: str
    caption: str | None = None
    error: str | None = None


async def captions(config: Config, model: str, sources: Sequence[str]) -> AsyncIterator[Caption]:
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
            job = await captioner.prepare(_request(model, url, task))
            answer = await captioner.answer(job)
        except (GatewayError, OSError) as error:
            return Caption(source, model, error=_sentence(error))
        return Caption(source, model, caption=answer.choices[0].message.content)


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
    path = Path(source)
    if path.stat().st_size > max_bytes:
        raise OSError(0, f"the file is larger than {max_bytes / 2**20:.0f} MiB, the limit set by 'images.max_bytes'")
    return f"data:;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _sentence(error: GatewayError | OSError) -> str:
    return error.message if isinstance(error, GatewayError) else error.strerror or "it cannot be read"
