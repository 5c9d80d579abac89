"""Keys that cover what shapes an answer, and nothing else."""

import hashlib
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import cache, wire
from gateway.cache import Selection
from gateway.cache.key import canonical
from gateway.catalogue import Model

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
    settled: dict[str, Any] = {"scope": "", "model": MODEL, "digests": [], "prompt": "", "pipeline": "1"}
    together = settled | {"request": request} | parts
    return cache.key(**(together | {"model": cache.loaded(together["model"])}))


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
    "picture_size": 96,
    "picture_rule": "tiles",
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


def test_whose_it_is_stands_outside_the_digest() -> None:
    """Two teams have two keys of one digest, and no name of a team or of a model can be mistaken for another or for a
    pattern."""
    names = ["", "a", "b", "a:b", "a*", "a?", "[a]", "{a}", "a%3Ab", "é"]
    keys = [key({}, scope=name) for name in names]
    models = [key({}, model=msgspec.structs.replace(MODEL, name=name)) for name in names]

    assert len(set(keys)) == len(set(models)) == len(names)
    assert len({each.rpartition(":")[2] for each in keys}) == 1
    assert not [each for each in keys + models if each.count(":") != 3 or set(each) & set("*?[]{}")]


@given(
    st.sampled_from(["", "a", "a:b", "*", "?", "[a]", "{a}"]),
    st.sampled_from(["demo", "d", "x/y:z", "*"]),
    st.lists(st.sampled_from([hashlib.sha256(name).hexdigest() for name in (b"p", b"q", b"r")]), max_size=3),
)
def test_a_key_tells_whose_which_models_and_which_pictures_it_is(scope: str, model: str, digests: list[str]) -> None:
    """So that what is to be removed is found by the key alone, exactly, and by a pattern at least."""
    made = key(with_pictures(*digests), scope=scope, digests=digests, model=msgspec.structs.replace(MODEL, name=model))
    right = {"scope": scope, "model": model, "digest": digests[0] if digests else made.rpartition(":")[2]}
    wrong = {"scope": f"{scope}x", "model": f"{model}x", "digest": hashlib.sha256(b"other").hexdigest()}

    for count in range(len(right) + 1):
        for names in combinations(right, count):
            meant = Selection(**{name: right[name] for name in names})
            assert meant.holds(made)
            assert fnmatchcase(made, meant.pattern)
            for name in names:
                assert not msgspec.structs.replace(meant, **{name: wrong[name]}).holds(made)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, json_values)
def test_no_two_values_are_written_alike(one: object, other: object) -> None:
    """Neither 1, 1.0, true and "1" nor a list and an object with its places as names."""
    assert (canonical(one) == canonical(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (None, False),
        ("1", 1),
        (["a", "b"], {"0": "a", "1": "b"}),
        (["ab", "c"], ["a", "bc"]),
        (["a", "sb"], ["as", "b"]),
        ([["a"], "b"], [["a", "b"]]),
        ([], {}),
        ({"a": None}, {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ("s1:a", ["s1:a"]),
        (0.0, -0.0),
    ],
)
def test_values_that_look_alike_are_written_differently(one: object, other: object) -> None:
    """Each with its kind, its length and its order: a schema's properties are filled in in theirs."""
    assert canonical(one) != canonical(other)


def test_an_integer_is_no_limit() -> None:
    """JSON has integers beyond 64 bits, a schema's for example, and each makes another key."""
    beyond = [{"const": sign * 10**30 + more} for sign in (1, -1) for more in (0, 1)]

    assert len({canonical(each) for each in (*beyond, {"const": 1e30}, {"const": str(10**30)})}) == 6


parts = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=6))
    | st.builds(
        lambda detail: {"type": "image_url", "image_url": {"url": "https://a/1", "detail": detail}},
        st.sampled_from([None, "low", "high"]),
    ),
    min_size=1,
    max_size=3,
)
turns = st.builds(
    lambda role, content, name: {"role": role, "content": content, "name": name},
    st.sampled_from(["system", "user", "assistant"]),
    parts,
    st.sampled_from([None, "ann", "bob"]),
)
fields = st.fixed_dictionaries(
    {"messages": st.lists(turns, min_size=1, max_size=3)},
    optional={
        "max_tokens": st.integers(1, 9),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0, 0.5, 1]),
        "n": st.integers(1, 3),
        "seed": st.integers(-1, 1),
        "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=3),
        "logit_bias": st.dictionaries(st.sampled_from("123"), st.integers(-1, 1).map(float), max_size=2),
        "response_format": st.builds(
            lambda schema: {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
            st.dictionaries(st.text(max_size=2), json_values, max_size=2),
        ),
    },
)
settings = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.sampled_from(["", "a", "b"]),
        "prompt": st.sampled_from(["", "x"]),
        "pipeline": st.sampled_from(["1", "2"]),
    },
)


@given(st.lists(st.tuples(fields, settings, st.sampled_from("de")), min_size=2, max_size=8))
def test_distinct_requests_have_distinct_keys(drawn: list[tuple[dict[str, Any], dict[str, Any], str]]) -> None:
    """Two requests share a key exactly when engine, team, pictures and every word and option are the same."""
    asked: dict[str, set[str]] = {}
    for given_fields, given_settings, digest in drawn:
        request = wire.decode_request(msgspec.json.encode(BASE | given_fields))
        digests = [digest] * len(wire.pictures_of(request))
        all_of_it = repr((request, {"scope": "", "prompt": "", "pipeline": "1"} | given_settings, digests))
        asked.setdefault(key(given_fields, digests=digests, **given_settings), set()).add(all_of_it)

    assert all(len(same) == 1 for same in asked.values())
    assert len(asked) == len(set().union(*asked.values()))
