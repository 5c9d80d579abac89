"""Keys that cover what shapes an answer, and stores that never fail a request."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from gateway import cache, wire
from gateway.cache import MemoryStore, RedisStore, Stored
from gateway.catalogue import Model
from tests.services import Redis, running_redis

MODEL = Model(name="demo", engine="blip", source="x")
BASE: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
OTHER_VALUES: dict[str, Any] = {
    "max_tokens": 7,
    "max_completion_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.5,
    "n": 2,
    "stop": ["x"],
    "seed": 1,
    "frequency_penalty": 1,
    "presence_penalty": 1,
    "logit_bias": {"5": 1},
    "logprobs": True,
    "top_logprobs": 3,
    "tools": [{"function": {"name": "g"}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "altgate": {"prefix": "a photo of"},
    "response_format": {"type": "json_object"},
    "messages": [{"role": "user", "content": "bye"}],
}


OUR_VALUES: dict[str, Any] = {"chat_template_kwargs": wire.TemplateArguments("vqa")}  # of fields that no client sets


def key(fields: dict[str, Any], **parts: Any) -> str:
    """The key of a request with those fields."""
    ours = {name: fields[name] for name in OUR_VALUES.keys() & fields}
    request = msgspec.structs.replace(wire.decode_request(msgspec.json.encode(BASE | fields)), **ours)
    settled: dict[str, Any] = {"model": MODEL, "digests": [], "prompt": "", "pipeline": "1"}
    return cache.key(request, **(settled | parts))


def stored(name: str, words: str = "a cat") -> Stored:
    """An answer kept under that key."""
    choice = wire.Choice(index=0, message=wire.AssistantMessage(content=words), finish_reason="stop")
    return Stored(cache.VERSION, name, [choice], wire.Usage(1, 2, 3))


def test_every_field_of_a_request_is_in_the_key_or_excused() -> None:
    """A field that is added to requests is in the key without anyone thinking of it, unless it is excused by name."""
    plain: dict[str, Any] = {"tools": [{"function": {"name": "f"}}]}
    for field in wire.ChatRequest.__struct_fields__:
        if field not in cache.NOT_IN_KEY or field == "messages":
            assert key(plain | {field: (OTHER_VALUES | OUR_VALUES)[field]}) != key(plain), field


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream_options": {"include_usage": True}}, {"user": "x"}])
def test_what_does_not_shape_the_answer_is_not_in_the_key(fields: dict[str, Any]) -> None:
    """Streamed or whole, and whoever asks: the words are the same."""
    assert key(fields) == key({})


@pytest.mark.parametrize("parts", [{"prompt": "x"}, {"pipeline": "2"}], ids=str)
def test_prompt_and_our_own_processing_are_in_the_key(parts: dict[str, Any]) -> None:
    """An upgrade of any of them never answers with what the old one said."""
    assert key({}, **parts) != key({})


OTHER_MODEL: dict[str, Any] = {
    "name": "other",
    "engine": "other",
    "source": "y",
    "revision": "2",
    "picture_rule": "tiles",
    "picture_size": 96,
    "picture_filter": "bilinear",
    "picture_tiles": 6,
    "picture_pixels": 1003520,
    "max_pictures": 2,
    "max_model_len": 8,
    "urls": ("http://other:8000/v1",),
    "special_tokens": ("<other>",),
    "tokenizer": "z",
    "forms": ("chat",),
    "args": {"keep-artefacts": True},
}


def test_every_field_of_a_model_is_in_the_key_or_excused() -> None:
    """Whatever can be configured of a model makes other answers, unless it is excused by name."""
    for field in Model.__struct_fields__:
        if field not in cache.NOT_IN_KEY:
            assert key({}, model=msgspec.structs.replace(MODEL, **{field: OTHER_MODEL[field]})) != key({}), field


OTHER_TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "hello"},
    {"role": "user", "content": "hello", "name": "ann"},
    {"role": "user", "content": "bye"},
    {"role": "user", "content": [{"text": "hel"}, {"text": "lo"}]},
    {"role": "user", "content": None},
]


@pytest.mark.parametrize("turn", OTHER_TURNS, ids=str)
def test_every_field_of_a_message_is_in_the_key(turn: dict[str, Any]) -> None:
    """Who speaks, under which name, and how the words are cut into parts."""
    assert key({"messages": [turn]}) != key({})


def test_calls_and_what_their_results_refer_to_are_in_the_key() -> None:
    """Two conversations that differ in a tool's arguments alone are two."""
    calls = [{"id": id_, "function": {"name": "f", "arguments": arguments}} for id_, arguments in ("a1", "a2", "b1")]
    turns: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": [call]} for call in calls]
    turns += [{"role": "tool", "content": "x", "tool_call_id": id_} for id_ in "ab"]

    assert len({key({"messages": [turn]}) for turn in turns}) == len(turns)


def with_pictures(*urls: str) -> dict[str, Any]:
    """Messages with those pictures."""
    return {"messages": [{"role": "user", "content": [{"image_url": url} for url in urls]}]}


def test_pictures_count_by_digest_and_in_order() -> None:
    """Where a picture came from does not matter; which one it is, and where it stands, does."""
    assert key(with_pictures("https://a/1"), digests=["d"]) == key(with_pictures("data:x"), digests=["d"])
    assert key(with_pictures("https://a/1"), digests=["d"]) != key(with_pictures("https://a/1"), digests=["e"])
    detailed = {"image_url": {"url": "https://a/1", "detail": "low"}}
    assert key({"messages": [{"role": "user", "content": [detailed]}]}, digests=["d"]) != key(
        with_pictures("https://a/1"), digests=["d"]
    )
    pair = with_pictures("https://a/1", "https://a/2")
    assert key(pair, digests=["d", "e"]) != key(pair, digests=["e", "d"])


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), min_size=1))
def test_different_conversations_have_different_keys(one: list[str], other: list[str]) -> None:
    """However words are cut into parts, two conversations share a key only when they are the same."""
    keys = [
        key({"messages": [{"role": "user", "content": [{"text": text} for text in texts]}]}) for texts in (one, other)
    ]

    assert (keys[0] == keys[1]) == (one == other)


async def test_memory_keeps_and_forgets_by_time() -> None:
    """An answer is there until its time is up."""
    now = 0.0
    async with MemoryStore(max_bytes=10_000, ttl=10, clock=lambda: now) as store:
        store.put(stored("k"))
        assert await store.get("k") == stored("k")
        assert await store.get("other") is None

        now = 10.0
        assert await store.get("k") is None
        assert store.bytes == 0


async def test_memory_is_bounded_in_bytes_and_drops_the_least_recently_used() -> None:
    """However much is kept, the bytes stay under the limit, and what was used last stays longest."""
    async with MemoryStore(max_bytes=2_000, ttl=10) as store:
        store.put(stored("first"))
        for number in range(100):
            store.put(stored(str(number), "word " * 20))
            assert await store.get("first") is not None
            assert store.bytes <= 2_000

        assert await store.get("0") is None
        assert await store.get("99") is not None


async def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    """It drops nothing to make room for what cannot fit."""
    async with MemoryStore(max_bytes=1_000, ttl=10) as store:
        store.put(stored("small"))
        store.put(stored("k", "x" * 5_000))

        assert await store.get("k") is None
        assert await store.get("small") is not None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """A real redis-server of its own."""
    with running_redis(tmp_path) as redis_server:
        yield redis_server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time enough for a Redis that is well on a machine that is busy; what the limit itself does has its own test."""
    monkeypatch.setattr(cache, "REDIS_PATIENCE", 5.0)


async def kept(store: RedisStore, name: str) -> Stored | None:
    """What a store gives back for what it was given, once its writer has written it."""
    store.put(stored(name))
    await store.flush()
    return await store.get(name)


@pytest.mark.usefixtures("patient")
async def test_redis_keeps_answers(server: Redis) -> None:
    """What one store kept, another finds; what was never kept is a miss."""
    async with RedisStore(server.url, ttl=10) as one, RedisStore(server.url, ttl=10) as other:
        assert await kept(one, "k") == stored("k")
        assert await other.get("k") == stored("k")
        assert await other.get("nothing") is None


@pytest.mark.usefixtures("patient")
async def test_redis_forgets_by_time(server: Redis) -> None:
    """Every key has a time to live."""
    async with RedisStore(server.url, ttl=100) as store:
        await kept(store, "k")

    with redis.Redis(unix_socket_path=str(server.path)) as client:
        assert 0 < client.pttl(f"altgate:{cache.VERSION}:k") <= 100_000


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"\xc1",
        msgspec.msgpack.encode({"version": 1}),
        msgspec.msgpack.encode(stored("another")),
        msgspec.msgpack.encode(msgspec.structs.replace(stored("k"), version=cache.VERSION + 1)),
    ],
)
async def test_a_value_that_is_not_ours_is_a_miss(server: Redis, value: bytes) -> None:
    """Garbage, another key's answer and another version's are never answered with."""
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        client.set(f"altgate:{cache.VERSION}:k", value)

    async with RedisStore(server.url, ttl=10) as store:
        assert await store.get("k") is None


async def test_a_redis_that_hangs_costs_fifty_milliseconds_once(server: Redis) -> None:
    """The first request that meets it waits that long, the next hundred do not wait, and when it is back it is used."""
    async with RedisStore(server.url, ttl=10) as store:
        assert await kept(store, "k") is not None
        server.signal(signal.SIGSTOP)

        started = time.perf_counter()
        assert await store.get("k") is None
        first = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(100):
            assert await store.get("k") is None
            store.put(stored("other"))
        later = time.perf_counter() - started

        server.signal(signal.SIGCONT)
        await until_back(store)
        assert await store.get("k") == stored("k")

    # Each would have waited 0.05 s, a hundred of them 5 s; what is between is room for a busy machine.
    assert 0.04 < first < 0.5
    assert later < 0.5


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_is_killed_and_comes_back_is_used_again(server: Redis) -> None:
    """Its death is a miss, and so is its absence at the start."""
    async with RedisStore(server.url, ttl=10) as store:
        server.kill()
        assert await kept(store, "k") is None

        server.start()
        await until_back(store)
        assert await kept(store, "k") == stored("k")


async def test_a_redis_that_was_never_there_is_a_miss(tmp_path: Path) -> None:
    """Nothing fails and nothing hangs without it."""
    async with RedisStore(f"unix://{tmp_path}/nothing.sock", ttl=10) as store:
        assert await kept(store, "k") is None
        assert "does not answer" in store.description


@pytest.mark.usefixtures("patient")
async def test_many_at_once_are_no_outage(server: Redis) -> None:
    """More readers than connections wait for one another, and each gets its answer."""
    async with RedisStore(server.url, ttl=10) as store:
        await kept(store, "k")

        found = await asyncio.gather(*(store.get("k") for _ in range(200)))

        assert found == [stored("k")] * 200
        assert store.description == "Redis"


@pytest.mark.usefixtures("patient")
async def test_a_key_of_another_kind_is_a_miss_and_no_outage(server: Redis) -> None:
    """What Redis refuses for one key says nothing of the others."""
    async with RedisStore(server.url, ttl=10) as store:
        await kept(store, "k")
        with redis.Redis(unix_socket_path=str(server.path)) as client:
            client.rpush(f"altgate:{cache.VERSION}:list", "x")

        assert await store.get("list") is None
        assert await store.get("k") == stored("k")


async def test_a_burst_of_writes_is_bounded(server: Redis) -> None:
    """What Redis cannot take in time is dropped, not queued without end."""
    async with RedisStore(server.url, ttl=10) as store:
        for number in range(cache.MAX_WRITES_WAITING * 4):
            store.put(stored(str(number)))

        assert store.waiting <= cache.MAX_WRITES_WAITING


async def until_back(store: RedisStore) -> None:
    """Returns when Redis answers the store again."""
    async with asyncio.timeout(10):
        while not await store.ping():
            await asyncio.sleep(0.01)
