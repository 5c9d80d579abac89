"""The story of a request, with an engine that answers as each test says."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest
from msgspec import UNSET

from gateway import captioning, prompts, routing, wire
from gateway.auth import ANONYMOUS, Caller
from gateway.cache import Cache
from gateway.cache.memory import MemoryStore
from gateway.captioning import Captioner
from gateway.catalogue import EngineKind, Model
from gateway.completion import Gathered
from gateway.config import ImagesConfig
from gateway.directives import Directives
from gateway.engine import Ask, Status
from gateway.errors import EngineFault, InvalidRequest
from gateway.images.ingest import Encoded, Ingest
from gateway.images.places import for_team
from gateway.life import State
from tests import pictures

PNG = pictures.png(pictures.SCENES[0], 96)
URL = "https://example.org/a.png"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "maxLength": 5}},
    "required": ["colour"],
    "additionalProperties": False,
}
IN_FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}}
TOOLS = {"tools": [{"function": {"name": "f", "parameters": SCHEMA}}], "tool_choice": "required"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def answer(content: str | None, reason: str | None = "stop", **message: Any) -> bytes:
    """A whole answer, as an engine sends it."""
    choice = {"index": 0, "message": {"content": content, **message}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": USAGE}).encode()


def calling(arguments: str) -> bytes:
    """A whole answer that calls `f`."""
    return answer(None, tool_calls=[{"id": "c", "function": {"name": "f", "arguments": arguments}}])


def chunks(*deltas: dict[str, Any], reason: str | None = "stop", usage: object = USAGE) -> list[bytes]:
    """A streamed answer, as an engine sends it."""
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    closed = [{"index": 0, "delta": {}, "finish_reason": reason}]
    return [json.dumps({"choices": [choice]}).encode() for choice in (*choices, *closed)] + [
        json.dumps({"choices": [], "usage": usage}).encode()
    ]


class FakeEngine:
    """Answers with the bytes that it is given; notes what it was asked and how long it might take to load."""

    def __init__(self, whole: bytes = b"", streamed: Sequence[bytes] = ()) -> None:
        self.whole = whole
        self.streamed = streamed
        self.asked: list[wire.ChatRequest] = []
        self.waits: list[float | None] = []
        self.there, self.go = asyncio.Event(), asyncio.Event()
        self.there.set()
        self.go.set()
        self.closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def status(self) -> Status:
        """It is always there."""
        return Status(State.READY)

    def want(self) -> None:
        """It is there."""

    async def complete(self, ask: Ask, *, wait: float | None = None) -> wire.ChatCompletion:
        """The whole answer, when `there` is set."""
        await self._hear(ask, wait)
        return wire.decode_completion(self.whole)

    async def stream(self, ask: Ask, *, wait: float | None = None) -> AsyncGenerator[wire.Chunk, None]:
        """The answer in chunks, when `there` is set, the second and later ones when `go` is."""
        await self._hear(ask, wait)
        try:
            for data in self.streamed:
                yield wire.decode_chunk(data)
                await self.go.wait()
        finally:
            self.closed = True

    async def _hear(self, ask: Ask, wait: float | None) -> None:
        self.waits.append(wait)
        await self.there.wait()
        self.asked.append(wire.decode_request(wire.encode(await ask())))


class Site:
    """A site with one picture, which counts how often it is asked for it."""

    def __init__(self) -> None:
        self.visits = 0
        self.teams: list[str] = []

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The picture."""
        self.visits += 1
        self.teams.append(for_team.get())
        return PNG


class Altgate:
    """A captioner with that engine behind it."""

    def __init__(self, engine: FakeEngine, ingest: Ingest, kind: EngineKind) -> None:
        models = routing.table([Model(name="m", engine=kind, source="x", max_pictures=2)])
        cache = Cache(MemoryStore(max_bytes=2**20), ttl=60)
        self.captioner = Captioner(
            models=models,
            presets=prompts.load(),
            ingest=ingest,
            engines={"m": engine},
            cache=cache,
            cold_start_wait=60,
        )

    async def answer(self, **fields: Any) -> tuple[str | None, wire.Choice]:
        """What the cache said, and the answer's first choice."""
        job = await self.captioner.prepare(request(**fields), ANONYMOUS)
        return job.record.cache, (await self.captioner.answer(job)).choices[0]

    async def stream(self, **fields: Any) -> tuple[str | None, list[wire.Chunk]]:
        """What the cache said, and the answer in chunks."""
        job = await self.captioner.prepare(request(**fields), ANONYMOUS)
        return job.record.cache, [chunk async for chunk in self.captioner.stream(job)]


def request(**fields: Any) -> wire.ChatRequest:
    """A request about the site's picture, with those fields over it."""
    plain = {"model": "m", "messages": [pictures.message(URL)]}
    return wire.decode_request(json.dumps(plain | fields).encode())


def words(streamed: Sequence[wire.Chunk]) -> str:
    """The words of a stream."""
    contents = (choice.delta.content for chunk in streamed for choice in chunk.choices)
    return "".join(content for content in contents if isinstance(content, str))


def reasons(streamed: Sequence[wire.Chunk]) -> list[str]:
    """Why the choices of a stream ended."""
    return [choice.finish_reason for chunk in streamed for choice in chunk.choices if choice.finish_reason]


@pytest.fixture
def site() -> Site:
    """Where the picture is."""
    return Site()


@pytest.fixture
async def altgate(site: Site) -> AsyncIterator[Callable[..., Altgate]]:
    """Makes a captioner of an engine; the model is vLLM's unless it is said to be another's."""
    async with Ingest(site, ImagesConfig()) as ingest:
        yield lambda engine, kind="vllm": Altgate(engine, ingest, kind)


Make = Callable[..., Altgate]


@pytest.mark.parametrize(
    ("kind", "begins"), [("vllm", "file:///dev/shm/altgate-pictures-"), ("remote", "data:image/png;base64,iVBOR")]
)
async def test_an_engine_gets_the_picture_under_a_name_of_ours(altgate: Make, kind: EngineKind, begins: str) -> None:
    """As pixels that we wrote, with the words around it; the answer comes back under the client's model name."""
    engine = FakeEngine(answer("a cat"))

    _, choice = await altgate(engine, kind).answer()

    assert choice.message.content == "a cat"
    [(_, part)] = wire.pictures_of(engine.asked[0])
    assert part.image_url.url.startswith(begins)
    assert engine.asked[0].temperature == 0


@pytest.mark.parametrize("kind", ["blip", "vllm", "remote"])
@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        ({}, answer("a cat")),
        (IN_FORMAT, answer('{"colour": "red"}')),
        (TOOLS, calling('{"colour": "red"}')),
        (TOOLS, calling('{"colour": "red"}').replace(b'"stop"', b'"tool_calls"')),
    ],
    ids=str,
)
async def test_a_complete_answer_is_kept(altgate: Make, kind: EngineKind, fields: dict[str, Any], whole: bytes) -> None:
    """Words, objects and calls; given again whole or streamed, the engine is asked once."""
    engine = FakeEngine(whole)
    made = altgate(engine, kind)

    first, second, (third, streamed) = (
        await made.answer(**fields),
        await made.answer(**fields),
        await made.stream(**fields),
    )

    assert (first[0], second[0], third) == ("miss", "hit", "hit")
    assert first[1] == second[1]
    gathered = Gathered()
    for chunk in streamed:
        gathered.add(chunk)
    assert gathered.result()[0] == [first[1]]
    assert len(engine.asked) == 1


@pytest.mark.parametrize(
    ("fields", "whole", "reason"),
    [
        ({}, answer("a ca", "length"), "length"),
        ({}, answer("", "content_filter"), "content_filter"),
        ({}, answer("a cat", "unheard of"), "length"),
        (IN_FORMAT, answer('{"colour": "re', "length"), "length"),
        (TOOLS, answer(None, "length", tool_calls=[{"function": {"name": "f", "arguments": '{"co'}}]), "length"),
    ],
)
async def test_an_answer_that_was_cut_off_is_given_and_not_kept(
    altgate: Make, fields: dict[str, Any], whole: bytes, reason: str
) -> None:
    """It is told honestly, and the next request may have more luck."""
    made = altgate(FakeEngine(whole))

    answers = [await made.answer(**fields) for _ in range(2)]

    assert [(cached, choice.finish_reason) for cached, choice in answers] == [("miss", reason)] * 2


@pytest.mark.parametrize("fields", [IN_FORMAT, TOOLS], ids=["words", "call"])
async def test_raw_control_characters_in_a_constrained_answer_are_mended(altgate: Make, fields: dict[str, Any]) -> None:
    """vLLM lets them into strings that have a limit. Whole and streamed the answer is JSON that says the same."""
    raw = '{"colour": "r\x01\td"}'
    tool = {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": raw}}]}
    whole, delta = (answer(raw), {"content": raw}) if fields is IN_FORMAT else (calling(raw), tool)
    (_, told), (_, streamed) = (
        await altgate(FakeEngine(whole), "vllm").answer(**fields),
        await altgate(FakeEngine(streamed=chunks(delta)), "vllm").stream(**fields),
    )
    gathered = Gathered()
    for chunk in streamed:
        gathered.add(chunk)

    for message in (told.message, gathered.result()[0][0].message):
        text = message.tool_calls[0].function.arguments if message.tool_calls else message.content
        assert json.loads(text or "") == {"colour": "r\x01\td"}


BROKEN = [
    (IN_FORMAT, answer('{"colour": "crimson"}')),
    (IN_FORMAT, answer("It is red.")),
    (IN_FORMAT, answer('```json\n{"colour": "red"}\n```')),
    ({"response_format": {"type": "json_object"}}, answer('{"caption": "a cat"}')),
    ({"model": "m:caption"}, answer("a cat")),
    (TOOLS, calling('{"colour": 5}')),
    (TOOLS, answer("I would rather talk.")),
]


@pytest.mark.parametrize(("fields", "whole"), BROKEN, ids=str)
async def test_an_answer_that_breaks_its_promise_is_a_fault_and_not_kept(
    altgate: Make, fields: dict[str, Any], whole: bytes
) -> None:
    """Neither what the client asked for nor what a preset promises is ever given out broken."""
    engine = FakeEngine(whole)
    made = altgate(engine)

    for _ in range(2):
        with pytest.raises(EngineFault, match="Try again"):
            await made.answer(**fields)

    assert len(engine.asked) == 2


@pytest.mark.parametrize(
    ("fields", "streamed", "kept"),
    [
        ({}, chunks({"role": "assistant", "content": ""}, {"content": "a "}, {"content": "cat"}), True),
        ({}, chunks({"content": "a cat"}, usage=None), True),
        ({}, chunks({"content": "a cat"}, reason=None), True),
        ({}, chunks({"content": "a cat"}, reason="length"), False),
        (IN_FORMAT, chunks({"content": '{"colour":'}, {"content": ' "red"}'}), True),
        (IN_FORMAT, chunks({"content": '{"colour": "crimson"}'}), False),
        (TOOLS, chunks({"tool_calls": [{"function": {"name": "f", "arguments": '{"colour": "red"}'}}]}), True),
        (TOOLS, chunks({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}), False),
    ],
)
async def test_a_stream_is_kept_when_it_is_complete_and_what_was_asked_for(
    altgate: Make, fields: dict[str, Any], streamed: list[bytes], kept: bool
) -> None:
    """It is too late to refuse what has been streamed, but nobody else gets it."""
    made = altgate(FakeEngine(streamed=streamed))

    first, again = (
        await made.stream(**fields),
        (await made.captioner.prepare(request(**fields), ANONYMOUS)).record.cache,
    )

    assert (first[0], again) == ("miss", "hit" if kept else "miss")
    assert len(reasons(first[1])) == 1


async def test_chunks_are_passed_on_as_they_come(altgate: Make) -> None:
    """The first is here while the engine has not made the second; leaving ends the engine's work."""
    engine = FakeEngine(streamed=chunks({"content": "a "}, {"content": "cat"}))
    engine.go.clear()
    made = altgate(engine)
    stream = made.captioner.stream(await made.captioner.prepare(request(), ANONYMOUS))

    async with asyncio.timeout(30):
        first = await anext(stream)
    await stream.aclose()

    assert words([first]) == "a "
    assert engine.closed


async def test_an_end_that_the_engine_owes_comes_before_the_usage(altgate: Make) -> None:
    """Clients wait for a reason, and for the usage in the very last chunk."""
    engine = FakeEngine(streamed=chunks({"content": "a cat"}, reason=None))

    _, streamed = await altgate(engine).stream(stream=True, stream_options={"include_usage": True})

    assert reasons(streamed[-2:-1]) == ["stop"]
    assert (streamed[-1].choices, streamed[-1].usage) == ([], wire.Usage(3, 2, 5))
    assert all(chunk.usage is None for chunk in streamed[:-1])


async def test_of_a_preset_that_was_cut_off_the_words_are_given(altgate: Make) -> None:
    """Whole and streamed, with the reason."""
    made = altgate(FakeEngine(answer('{"caption": "a c', "length")))

    _, choice = await made.answer(model="m:caption")
    _, streamed = await made.stream(model="m:caption")

    assert (choice.message.content, choice.finish_reason) == ("a c", "length")
    assert (words(streamed), reasons(streamed)) == ("a c", ["length"])


@pytest.mark.parametrize(
    "fields",
    [
        {"altgate": {"prefix": "a"}},
        {"tools": [{"function": {"name": "f"}}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "bogus"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"uniqueItems": True}}}},
        {"messages": [pictures.message(URL, URL, URL)]},
    ],
    ids=str,
)
async def test_what_cannot_be_done_is_refused_before_any_picture_is_fetched(
    altgate: Make, site: Site, fields: dict[str, Any]
) -> None:
    """A refusal costs nobody anything."""
    engine = FakeEngine(answer("a cat"))

    with pytest.raises(InvalidRequest):
        await altgate(engine).answer(**fields)

    assert (site.visits, engine.asked) == (0, [])


@pytest.mark.parametrize("stream", [False, True])
async def test_pictures_are_decoded_when_the_engine_is_there(
    altgate: Make, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then a request holds what the client sent: decoded, a picture may take a hundred times as much. Where the
    answer is kept, they are not decoded at all.
    """
    decoded: list[str] = []
    hand_over = Ingest.hand_over

    async def noted(ingest: Ingest, encoded: Encoded, *settings: Any, **fields: Any) -> str:
        decoded.append(encoded.digest)
        return await hand_over(ingest, encoded, *settings, **fields)

    monkeypatch.setattr(Ingest, "hand_over", noted)
    engine = FakeEngine(answer("a cat"), chunks({"content": "a cat"}))
    engine.there.clear()
    made = altgate(engine)
    work = asyncio.ensure_future(made.stream() if stream else made.answer())
    async with asyncio.timeout(30):
        while not engine.waits:
            await asyncio.sleep(0)
    assert decoded == []
    engine.there.set()
    await work

    assert len(decoded) == 1
    assert engine.asked[0].stream is (True if stream else None)
    assert (await made.answer())[0] == "hit"
    assert len(decoded) == 1


@pytest.mark.parametrize(
    ("kind", "asked_for", "wait"), [("vllm", None, None), ("blip", 7.0, 7.0), ("vllm", 7.0, 7.0), ("remote", 7.0, None)]
)
async def test_a_clients_patience_reaches_an_engine_that_loads(
    altgate: Make, kind: EngineKind, asked_for: float | None, wait: float | None
) -> None:
    """Whole and streamed; elsewhere nothing is loaded, so there it is not said to be honoured."""
    engine = FakeEngine(answer("a cat", "length"), chunks({"content": "a cat"}))
    captioner = altgate(engine, kind).captioner
    job = await captioner.prepare(request(), ANONYMOUS, Directives(wait=asked_for))

    await captioner.answer(job)
    assert [chunk async for chunk in captioner.stream(job)]

    assert (job.wait, engine.waits) == (wait, [wait, wait])


async def test_chance_is_not_kept_and_greed_is(altgate: Make) -> None:
    """Who asks for a temperature gets other words each time; without one, an engine is told to be greedy."""
    engine = FakeEngine(answer("a cat"))
    made = altgate(engine)

    asked = [(await made.answer(**fields))[0] for fields in ({"temperature": 1}, {"temperature": 1, "top_p": 0.5}, {})]

    assert asked == ["bypass", "bypass", "miss"]
    assert [each.temperature for each in engine.asked] == [1, 1, 0]


async def test_what_a_load_takes_is_not_saved_by_a_kept_answer(altgate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making it anew would take the engine's work alone, since the engine is there now."""
    ahead = 0.0
    monkeypatch.setattr(captioning, "time", SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + ahead))
    engine = FakeEngine(answer("a cat"))
    engine.there.clear()
    made = altgate(engine)
    asked = asyncio.create_task(made.answer())
    while not engine.waits:
        await asyncio.sleep(0)
    ahead = 1000.0
    engine.there.set()

    assert [(await each)[0] for each in (asked, made.answer())] == ["miss", "hit"]
    assert 0 < made.captioner.cache.tally.seconds < 1000


async def test_an_answer_that_its_first_asker_has_left_saved_nothing(altgate: Make) -> None:
    """It was made for the one who stayed, though that one had come aboard; for others who did, it was made already."""
    engine = FakeEngine(answer("a cat"))
    engine.there.clear()
    made = altgate(engine)
    first = asyncio.create_task(made.answer())
    while not engine.waits:
        await asyncio.sleep(0)
    others = [asyncio.create_task(made.answer()) for _ in range(2)]
    (flight,) = made.captioner._flights._flights.values()
    async with asyncio.timeout(30):
        while flight.aboard < 3:
            await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    engine.there.set()
    await asyncio.gather(*others)

    tally, usage = made.captioner.cache.tally, wire.decode_completion(engine.whole).usage
    assert (tally.misses, tally.joins, tally.tokens) == (1, 1, usage.total_tokens)
    assert usage.total_tokens > 0


async def together(made: Altgate, engine: FakeEngine, *asked: dict[str, Any]) -> list[Any]:
    """The ends of requests that are under way together; those with `stream` are streamed."""
    engine.there.clear()
    tasks = [
        asyncio.ensure_future((made.stream if fields.pop("stream", False) else made.answer)(**fields))
        for fields in asked
    ]
    async with asyncio.timeout(30):
        while not engine.waits:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    engine.there.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    return [end[1] if isinstance(end, tuple) else end for end in ends]


@pytest.mark.parametrize("first", ["stream", "whole"])
async def test_a_stream_and_a_whole_answer_are_one_generation(altgate: Make, first: str) -> None:
    """Whichever was first: the same words, the usage for whoever wants it, an id for each."""
    engine = FakeEngine(answer("a cat"), chunks({"content": "a "}, {"content": "cat"}))
    usage = {"stream_options": {"include_usage": True}}
    asked: list[dict[str, Any]] = [{"stream": True, **usage}, {}, {"stream": True}]

    ends = await together(altgate(engine), engine, *(asked if first == "stream" else [{}, *asked[:1], *asked[2:]]))

    streams = [end for end in ends if isinstance(end, list)]
    [whole] = [end for end in ends if isinstance(end, wire.Choice)]
    assert [words(each) for each in streams] == [whole.message.content] * 2 == ["a cat"] * 2
    assert [reasons(each) for each in streams] == [["stop"]] * 2
    assert [each[-1].usage != UNSET and not each[-1].choices for each in streams] == [True, False]
    assert len({each[0].id for each in streams}) == 2
    assert len(engine.asked) == 1


async def test_a_stream_that_breaks_its_promise_is_a_fault_for_who_wants_it_whole(altgate: Make) -> None:
    """The stream has passed it on by then; the whole answer is held to its schema, and nothing is kept."""
    engine = FakeEngine(answer('{"colour": "red"}'), chunks({"content": '{"colour": "crimson"}'}))
    made = altgate(engine)

    streamed, whole = await together(made, engine, {**IN_FORMAT, "stream": True}, {**IN_FORMAT})

    assert words(streamed) == '{"colour": "crimson"}'
    assert isinstance(whole, EngineFault)
    assert (await made.answer(**IN_FORMAT))[0] == "miss"


async def test_a_presets_text_and_its_object_are_one_generation(altgate: Make) -> None:
    """Streamed and whole; each is given the form that it asked for."""
    preset = prompts.load()["alt_text"]
    content = json.dumps({preset.field: "a cat"})
    engine = FakeEngine(answer(content), chunks({"content": content}))
    as_object = {"model": "m:alt_text", "response_format": {"type": "json_object"}}

    ends = await together(
        altgate(engine), engine, {**as_object, "stream": True}, {"model": "m:alt_text", "stream": True}, {**as_object}
    )

    assert [words(ends[0]), words(ends[1]), ends[2].message.content] == [content, "a cat", content]
    assert len(engine.asked) == 1


async def test_pictures_are_fetched_in_the_turn_of_the_callers_team(altgate: Make, site: Site) -> None:
    """Who shares out downloads knows for whom they are."""
    captioner = altgate(FakeEngine(answer("a cat"))).captioner
    for team in ("one", "two"):
        await captioner.prepare(request(), caller=Caller(key_id="k", team=team))
    assert site.teams == ["one", "two"]
