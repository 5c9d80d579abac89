"""The story of one request, for whoever asks: the HTTP routes and the command line.

prepare   route by the model's name, fill the preset, load the pictures, look the answer up
answer    generate it unless it was found, or share what is being generated; keep it, give it back whole
stream    the same, piece by piece
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gateway import asked, completion, ids, mending, promises, routing, wire
from gateway.auth import Caller
from gateway.cache import Cache, Stored, key, loaded
from gateway.catalogue import Model
from gateway.directives import NO_DIRECTIVES, Directives
from gateway.engine import Engine
from gateway.errors import InvalidRequest, NotCached
from gateway.flight import Flight, Flights, Made, Passage
from gateway.images.ingest import Encoded, Ingest, is_remote
from gateway.images.places import for_team
from gateway.images.shelf import Lease
from gateway.leases import Leases
from gateway.prompts import Preset
from gateway.record import Record
from gateway.wire import ChatCompletion, ChatRequest, Chunk

JSON_PRESET = "alt_text"  # what json_object means, since it brings no schema of its own

T = TypeVar("T")


class Job(Struct, kw_only=True):
    """A request made ready.

    `asked` is what the engine will be asked, its pictures not yet decoded; `key` is None for an answer not kept;
    `is_shared` says that an answer made for others will do; `unwrap` names the property whose words are the answer,
    where a preset was chosen but no object asked for; `is_whole` says that nothing had to be fetched for it; `wait` is
    how many seconds a load of the engine may take, None for what is configured and where nothing is loaded. `record` is
    told what comes of it; how the cache was used is settled in it when the answer has begun.
    """

    record: Record
    asked: ChatRequest
    model: Model
    pictures: Sequence[Encoded]
    head: completion.Head
    unwrap: str | None
    key: str | None
    is_whole: bool
    is_shared: bool
    found: Stored | None
    wait: float | None

    @property
    def age(self) -> int | None:
        """How many seconds old the answer is that was found."""
        return None if self.found is None else int(self.found.age(time.time()))

    def again(self, record: Record, found: Stored) -> "Job":
        """The same request made once more, and its answer."""
        head = replace(self.head, id=_answer_id(), created=int(time.time()))
        return replace(self, record=record, head=head, found=found)


class Captioner:
    """Answers requests with its parts: the models and presets, the ingest of pictures, the engines and the store."""

    def __init__(
        self,
        *,
        models: Mapping[str, Model],
        presets: Mapping[str, Preset],
        ingest: Ingest,
        engines: Mapping[str, Engine],
        cache: Cache,
        leases: Leases | None = None,
        cold_start_wait: float,
        share_across_teams: bool = False,
    ) -> None:
        self.models = models
        self._loaded = {model.name: loaded(model) for model in models.values()}
        self.presets = presets
        self.engines = engines
        self.cache = cache
        self._ingest = ingest
        self._leases = leases
        self._flights = Flights()
        cache.on_outdated.append(lambda selection: self._flights.close(selection.holds))
        self._cold_start_wait = cold_start_wait
        self.share_across_teams = share_across_teams

    async def prepare(
        self,
        request: ChatRequest,
        caller: Caller,
        directives: Directives = NO_DIRECTIVES,
        *,
        hold: Callable[[int], None] | None = None,
        record: Record | None = None,
    ) -> Job:
        """Everything up to the engine, for that caller, whose team finds the answer again and nobody else.

        `hold` is told how many bytes of pictures were fetched; it may refuse them.

        `record` is told what becomes known.

        Raises:
            GatewayError: there is no such model for this caller, or the request or one of its pictures cannot be
                used.
        """
        record = record or Record()
        route = routing.choose(request.model, caller.visible(self.models), self.presets)
        preset = self._preset(request, route.preset)
        record.model, record.preset = route.model.name, preset.name if preset else None
        if record.keeps_prompt:
            record.prompt = wire.texts_of(request)
        scope = "" if self.share_across_teams else caller.team
        question = asked.upstream(request, route.model, preset, scope=scope)
        promises.ensure_possible(question, route.model)
        record.enter("fetch")
        for_team.set(caller.team)
        pictures = await self._load(request, hold)
        record.enter("cache")
        _note_pictures(record, pictures, [self._ingest.note(picture, route.model.sizing) for picture in pictures])
        is_kept = _repeatable(request) and not directives.no_store
        name = self._key(scope, question, route.model, preset, pictures) if is_kept else None
        found, is_shared = await self._look_up(name, directives)
        record.cache = ("hit" if found else "miss") if name and not directives.no_cache else "bypass"
        record.enter(None)
        return Job(
            record=record,
            asked=question,
            model=route.model,
            pictures=pictures if found is None else (),  # nobody will ask for them
            head=_head(request, route.model, preset, self._ingest.pipeline),
            unwrap=preset.field if preset and request.response_format is None else None,
            key=name,
            is_whole=not any(is_remote(part.image_url.url) for _, part in wire.pictures_of(request)),
            is_shared=is_shared,
            found=found,
            wait=directives.wait if route.model.engine != "remote" else None,
        )

    async def answer(self, job: Job) -> ChatCompletion:
        """The answer, whole.

        Raises:
            GatewayError: a picture cannot be decoded, or the engine refused or failed.
        """
        choices, usage = await self._choices(job)
        words = [completion.unwrapped(choice, job.unwrap) for choice in choices] if job.unwrap else choices
        return completion.whole(job.head, words, usage)

    async def stream(self, job: Job) -> AsyncGenerator[Chunk, None]:
        """The answer as it is made. Closing the generator ends the engine's work, unless others want it.

        Raises:
            GatewayError: as `answer`, and also in the middle.
        """
        if job.found is not None or job.unwrap is not None:
            whole = await self.answer(job)
            for chunk in completion.replayed(job.head, whole.choices, whole.usage):
                yield chunk
            return
        in_pieces = False
        async with self._aboard(job, in_pieces=True) as passage, aclosing(passage.pieces()) as pieces:
            async for piece in pieces:
                in_pieces = True
                yield completion.restamped(job.head, piece)
            made = await self._landed(job, passage)
        if not in_pieces:
            for chunk in completion.replayed(job.head, made.choices, made.usage):
                yield chunk
        elif job.head.include_usage:
            yield completion.usage_chunk(job.head, made.usage)

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

    async def _load(self, request: ChatRequest, hold: Callable[[int], None] | None) -> list[Encoded]:
        pictures = wire.pictures_of(request)
        return await _all(self._ingest.load(part.image_url.url, param=path, hold=hold) for path, part in pictures)

    async def _choices(self, job: Job) -> tuple[list[wire.Choice], wire.Usage]:
        """The answer's choices and usage, found or made."""
        if job.found is not None:
            self.cache.tally.hit(job.found.usage, job.found.seconds)
            job.record.usage, job.record.saved = job.found.usage, job.found.seconds
            return job.found.choices, job.found.usage
        async with self._aboard(job, in_pieces=False) as passage:
            made = await self._landed(job, passage)
        promises.ensure_kept(job.asked, made.choices)  # a stream that broke its promise was not refused
        return made.choices, made.usage

    async def _look_up(self, name: str | None, directives: Directives) -> tuple[Stored | None, bool]:
        """The answer that was kept, and whether one that is being made for others would do as well.

        Raises:
            NotCached: there is none, and the client wants no other.
        """
        found, is_shared = None, name is not None and not directives.no_cache
        if name is not None and is_shared and (directives.only_if_cached or name not in self._flights):
            found = await self.cache.get(name)
        if found is not None and directives.max_age is not None and found.age(time.time()) > directives.max_age:
            found, is_shared = None, False
        if found is None and directives.only_if_cached:
            raise NotCached("There is no kept answer, and 'Cache-Control: only-if-cached' asks for no other.")
        return found, is_shared

    def _aboard(self, job: Job, *, in_pieces: bool) -> Passage:
        """A place on the flight of this request, which may wait for the engine to load for as long as the job says."""
        until = time.monotonic() + (self._cold_start_wait if job.wait is None else job.wait)
        generate = partial(self._generated, job, in_pieces)
        passage = self._flights.aboard(job.key if job.is_shared else None, generate, wait=job.wait, until=until)
        if passage.joined:
            job.pictures = ()  # those of whoever was first are looked at
            job.record.cache = "join"
            job.record.enter("join")
        return passage

    async def _landed(self, job: Job, passage: Passage) -> Made:
        """The flight's answer, counted."""
        made, flight = await passage.landed(), passage.flight
        job.record.enter(None)
        job.record.usage = made.usage
        is_saved = made.found or flight.is_taken
        flight.is_taken = True
        if is_saved:
            job.record.saved = made.seconds
        if made.found:
            job.record.cache = "join"
        if job.record.cache == "bypass":
            self.cache.tally.bypass()
        elif is_saved:
            self.cache.tally.join(made.usage, made.seconds)
        else:  # it may have come aboard, but whoever was there before has left
            self.cache.tally.miss()
        return made

    async def _generated(self, job: Job, in_pieces: bool, flight: Flight, wait: float | None) -> Made:
        """The answer, unless another gateway makes it: then theirs."""
        if job.key is None or not job.is_shared:
            return await self._from_engine(job, in_pieces, flight, wait)
        job.record.enter("cache")
        async with self._turn(job.key, job.model):
            if found := await self.cache.get(job.key):
                return Made(choices=found.choices, usage=found.usage, seconds=found.seconds, found=True)
            return await self._from_engine(job, in_pieces, flight, wait)

    def _turn(self, name: str, model: Model) -> AbstractAsyncContextManager[None]:
        """Held by the gateway that makes an answer. One that would have to load its engine first stays out of it."""
        if self._leases is None or not self.engines[model.name].status.can_serve:
            return nullcontext()
        return self._leases.held(name)

    async def _from_engine(self, job: Job, in_pieces: bool, flight: Flight, wait: float | None) -> Made:
        """The engine's answer, kept if it is complete."""
        job.record.enter("queue")
        engine = self.engines[job.model.name]
        with self._ingest.lease(here=job.model.engine != "remote") as pictures:
            ask = partial(self._question, job, in_pieces, flight, pictures)
            if in_pieces:
                choices, usage = await _gathered(job, engine.stream(ask, wait=wait), flight)
            else:
                made = await engine.complete(ask, wait=wait)
                choices, usage = made.choices, made.usage
                if mending.applies(job.asked, job.model):
                    choices = [mending.whole(choice, job.asked) for choice in choices]
                promises.ensure_kept(job.asked, choices)
        seconds = time.monotonic() - flight.begun if flight.begun is not None else 0.0
        if job.key is not None and promises.is_complete(choices) and promises.are_kept(job.asked, choices):
            self.cache.keep(job.key, choices, usage, seconds=seconds)
        return Made(choices=choices, usage=usage, seconds=seconds)

    async def _question(self, job: Job, in_pieces: bool, flight: Flight, lease: Lease) -> ChatRequest:
        """What the engine is asked, when it can work on it."""
        flight.begun = time.monotonic()
        job.record.enter("decode")
        whole = await self._with_pictures(job, lease)
        job.record.enter("engine")
        return (
            replace(whole, stream=True, stream_options=wire.StreamOptions(include_usage=True)) if in_pieces else whole
        )

    async def _with_pictures(self, job: Job, lease: Lease) -> ChatRequest:
        """What the engine is asked, each picture in it decoded and written anew by us."""
        if not job.pictures:
            return job.asked
        paths = [path for path, _ in wire.pictures_of(job.asked)]
        pictures = list(zip(paths, job.pictures, strict=True))
        await self._ingest.reserve(pictures, job.model.sizing, lease)
        decodes = (self._ingest.hand_over(picture, job.model.sizing, lease, param=path) for path, picture in pictures)
        names = [f"{picture.digest}-{self._ingest.pipeline}" for picture in job.pictures]
        return asked.with_pictures(job.asked, job.model, zip(names, await _all(decodes), strict=True))

    def _key(
        self, scope: str, question: ChatRequest, model: Model, preset: Preset | None, pictures: Sequence[Encoded]
    ) -> str:
        return key(
            scope,
            question,
            model=self._loaded[model.name],
            digests=[picture.digest for picture in pictures],
            prompt=preset.digest if preset else "",
            pipeline=self._ingest.pipeline,
        )


async def _gathered(
    job: Job, chunks: AsyncGenerator[Chunk, None], flight: Flight
) -> tuple[list[wire.Choice], wire.Usage]:
    """The whole of a streamed answer, each piece of which is passed on at once."""
    gathered, mends = completion.Gathered(), mending.applies(job.asked, job.model)
    async with aclosing(chunks):
        async for chunk in chunks:
            if mends:
                chunk = mending.piece(chunk, job.asked)  # noqa: PLW2901 - from here on there is no other
            gathered.add(chunk)
            if chunk.choices:
                await flight.publish(chunk)
    if ends := gathered.close(job.head):
        await flight.publish(ends)
    return gathered.result()


def _note_pictures(record: Record, pictures: Sequence[Encoded], notes: Sequence[str]) -> None:
    record.digests = [picture.digest for picture in pictures]
    record.picture_bytes = sum(len(picture.data) for picture in pictures)
    record.notes = notes


def _repeatable(request: ChatRequest) -> bool:
    """Whether the same request gets the same words: a client that asks for sampling wants others each time."""
    return not request.temperature or request.seed is not None


def _head(request: ChatRequest, model: Model, preset: Preset | None, pipeline: str) -> completion.Head:
    wanted = request.stream_options is not None and bool(request.stream_options.include_usage)
    prompt = preset.digest[:8] if preset else "none"
    return completion.Head(
        id=_answer_id(),
        created=int(time.time()),
        model=request.model,
        system_fingerprint=f"{model.revision}-{prompt}-{pipeline}",
        include_usage=wanted,
    )


def _answer_id() -> str:
    return f"chatcmpl-{ids.fresh()}"


async def _all(steps: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs the steps together; the first fault ends the others and is the one that is told."""
    coroutines = list(steps)
    if len(coroutines) <= 1:
        return [await each for each in coroutines]
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # a fault's traceback leads here: what hangs on it would stay until the next search for cycles
