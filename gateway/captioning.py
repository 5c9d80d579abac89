"""The story of one request, for whoever asks: the HTTP routes and the command line.

prepare   route by the model's name, fill the preset, load the pictures, look the answer up
answer    generate it unless it was found, keep it, give it back whole
stream    the same, piece by piece
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway import asked, cache, completion, promises, routing, wire
from gateway.cache import Store, Stored
from gateway.catalogue import Model
from gateway.directives import NO_DIRECTIVES, Directives
from gateway.engine import Engine
from gateway.errors import InvalidRequest
from gateway.images.ingest import Encoded, Ingest
from gateway.images.shelf import Lease
from gateway.prompts import Preset
from gateway.wire import ChatCompletion, ChatRequest, Chunk

JSON_PRESET = "alt_text"  # what json_object means, since it brings no schema of its own

CacheResult = Literal["hit", "miss", "bypass"]
T = TypeVar("T")


class Job(Struct, frozen=True, kw_only=True):
    """A request made ready.

    `asked` is what the engine will be asked, its pictures not yet decoded; `notes` say, a line each, what is done to
    those; `key` is None for an answer that is not kept; `unwrap` names the property whose words are the answer, where
    a preset was chosen but no object asked for; `wait` is how many seconds a load of the engine may take, None for what
    is configured and where nothing is loaded.
    """

    asked: ChatRequest
    model: Model
    pictures: Sequence[Encoded]
    notes: Sequence[str]
    head: completion.Head
    unwrap: str | None
    key: str | None
    cache: CacheResult
    found: Stored | None
    wait: float | None


class Captioner:
    """Answers requests with its parts: the models and presets, the ingest of pictures, the engines and the store."""

    def __init__(
        self,
        *,
        models: Mapping[str, Model],
        presets: Mapping[str, Preset],
        ingest: Ingest,
        engines: Mapping[str, Engine],
        store: Store,
    ) -> None:
        self.models = models
        self.presets = presets
        self.engines = engines
        self.store = store
        self._ingest = ingest

    async def prepare(self, request: ChatRequest, directives: Directives = NO_DIRECTIVES) -> Job:
        """Everything up to the engine.

        Raises:
            GatewayError: the model is unknown, or the request or one of its pictures cannot be used.
        """
        route = routing.choose(request.model, self.models, self.presets)
        preset = self._preset(request, route.preset)
        question = asked.upstream(request, route.model, preset)
        promises.ensure_possible(question, route.model)
        pictures = await self._load(request)
        is_kept = _repeatable(request) and not directives.no_store
        key = self._key(question, route.model, preset, pictures) if is_kept else None
        consulted = key if not directives.no_cache else None
        found = await self.store.get(consulted) if consulted else None
        return Job(
            asked=question,
            model=route.model,
            pictures=pictures,
            head=_head(request, route.model, preset, self._ingest.pipeline),
            unwrap=preset.field if preset and request.response_format is None else None,
            key=key,
            cache=("hit" if found else "miss") if consulted else "bypass",
            found=found,
            notes=[self._ingest.note(picture, route.model.sizing) for picture in pictures],
            wait=directives.wait if route.model.engine != "remote" else None,
        )

    async def answer(self, job: Job) -> ChatCompletion:
        """The answer, whole.

        Raises:
            GatewayError: a picture cannot be decoded, or the engine refused or failed.
        """
        choices, usage = await self._generated(job)
        return completion.whole(job.head, choices, usage)

    async def stream(self, job: Job) -> AsyncGenerator[Chunk, None]:
        """The answer as it is made. Closing the generator ends the engine's work.

        Raises:
            GatewayError: as `answer`, and also in the middle.
        """
        if job.found is not None or job.unwrap is not None:
            choices, usage = await self._generated(job)
            for chunk in completion.replayed(job.head, choices, usage):
                yield chunk
            return
        in_pieces = replace(job.asked, stream=True, stream_options=wire.StreamOptions(include_usage=True))
        gathered = completion.Gathered()
        with self._lease(job) as lease:
            ask = partial(self._with_pictures, replace(job, asked=in_pieces), lease)
            chunks = self.engines[job.model.name].stream(ask, wait=job.wait)
            try:
                async for chunk in chunks:
                    gathered.add(chunk)
                    if chunk.choices:
                        yield completion.restamped(job.head, chunk)
            finally:
                await chunks.aclose()
        if ends := gathered.close(job.head):
            yield ends
        choices, usage = gathered.result()
        if promises.are_kept(job.asked, choices):  # if not, it is too late to refuse them
            self._keep(job, choices, usage)
        if job.head.include_usage:
            yield completion.usage_chunk(job.head, usage)

    # --- the steps ---

    def _preset(self, request: ChatRequest, by_name: str | None) -> Preset | None:
        name = request.altgate.task if request.altgate is not None else None
        name = name or by_name
        if name is None and request.response_format is not None and request.response_format.type == "json_object":
            name = JSON_PRESET
        if name is not None and name not in self.presets:
            raise InvalidRequest(
                f"Invalid value for 'altgate.task': there is no preset {name[:40]!r}. "
                f"The presets are {', '.join(map(repr, self.presets))}.",
                param="altgate.task",
                code="invalid_value",
            )
        return self.presets[name] if name is not None else None

    async def _load(self, request: ChatRequest) -> list[Encoded]:
        pictures = wire.pictures_of(request)
        return await _all(self._ingest.load(part.image_url.url, param=path) for path, part in pictures)

    async def _generated(self, job: Job) -> tuple[list[wire.Choice], wire.Usage]:
        """The answer's choices and usage, found or made, in the form that was asked for."""
        if job.found is not None:
            choices, usage = job.found.choices, job.found.usage
        else:
            with self._lease(job) as lease:
                ask = partial(self._with_pictures, job, lease)
                made = await self.engines[job.model.name].complete(ask, wait=job.wait)
            choices, usage = made.choices, made.usage
            promises.ensure_kept(job.asked, choices)
            self._keep(job, choices, usage)
        return ([completion.unwrapped(choice, job.unwrap) for choice in choices] if job.unwrap else choices), usage

    def _lease(self, job: Job) -> Lease:
        return self._ingest.lease(here=job.model.engine != "remote")

    async def _with_pictures(self, job: Job, lease: Lease) -> ChatRequest:
        """What the engine is asked, each picture in it decoded and written anew by us."""
        decodes = (
            self._ingest.hand_over(picture, job.model.sizing, lease, param=path)
            for picture, (path, _) in zip(job.pictures, wire.pictures_of(job.asked), strict=True)
        )
        names = [f"{picture.digest}-{self._ingest.pipeline}" for picture in job.pictures]
        return asked.with_pictures(job.asked, job.model, zip(names, await _all(decodes), strict=True))

    def _key(self, asked: ChatRequest, model: Model, preset: Preset | None, pictures: Sequence[Encoded]) -> str:
        return cache.key(
            asked,
            model=model,
            digests=[picture.digest for picture in pictures],
            prompt=preset.digest if preset else "",
            pipeline=self._ingest.pipeline,
        )

    def _keep(self, job: Job, choices: list[wire.Choice], usage: wire.Usage) -> None:
        """Only complete answers are kept."""
        if job.key is not None and promises.is_complete(choices):
            self.store.put(Stored(cache.VERSION, job.key, choices, usage))


def _repeatable(request: ChatRequest) -> bool:
    """Whether the same request gets the same words: a client that asks for sampling wants others each time."""
    return not request.temperature or request.seed is not None


def _head(request: ChatRequest, model: Model, preset: Preset | None, pipeline: str) -> completion.Head:
    wanted = request.stream_options is not None and bool(request.stream_options.include_usage)
    prompt = preset.digest[:8] if preset else "none"
    return completion.Head(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=request.model,
        system_fingerprint=f"{model.revision}-{prompt}-{pipeline}",
        include_usage=wanted,
    )


async def _all(steps: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs the steps together; the first fault ends the others and is the one that is told."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
