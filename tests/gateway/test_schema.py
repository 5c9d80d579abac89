"""Schemas of clients: what is refused, what passes, and answers held to them."""

import gc
import json
import weakref
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import prompts, schema
from gateway.errors import InvalidRequest, render
from gateway.schema.checker import MAX_KEPT
from gateway.wire import JsonObject

STRING: JsonObject = {"type": "string"}
ALT_TEXT: JsonObject = {
    "type": "object",
    "required": ["alt_text"],
    "additionalProperties": False,
    "properties": {"alt_text": {"type": "string", "maxLength": 120}},
}
UNHURRIED = settings(derandomize=True, database=None, deadline=timedelta(seconds=5), max_examples=300)


def an_object(count: int) -> JsonObject:
    """An object of so many string properties."""
    return {"type": "object", "properties": {f"p{number}": STRING for number in range(count)}}


def nested(levels: int) -> JsonObject:
    """So many objects in each other, the innermost holding a string."""
    found = STRING
    for _ in range(levels):
        found = {"type": "object", "properties": {"inner": found}, "required": ["inner"]}
    return found


def fanning_out(levels: int, keyword: str) -> JsonObject:
    """A small schema whose references double at every level."""
    doubled = {
        f"d{level}": {keyword: [{"$ref": f"#/$defs/d{level + 1}"}, {"$ref": f"#/$defs/d{level + 1}"}]}
        for level in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**doubled, f"d{levels}": STRING}}


def a_chain(length: int) -> JsonObject:
    """References that lead one to the next."""
    links: JsonObject = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": STRING}}


def a_pattern(pattern: str, **beside: Any) -> JsonObject:
    """A string of that pattern."""
    return {"type": "string", "pattern": pattern, **beside}


def a_union(*kinds: str) -> JsonObject:
    """A tagged union as Pydantic writes it."""
    options = {
        kind: {"type": "object", "properties": {"kind": {"const": kind, "type": "string"}}, "required": ["kind"]}
        for kind in kinds
    }
    return {
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds],
        "discriminator": {"propertyName": "kind"},
        "$defs": options,
    }


OUT_OF_BOUNDS: dict[str, tuple[JsonObject, str]] = {
    "no type of that name": ({"type": "bogus"}, "value of '#/type'"),
    "length is no number": ({"properties": {"a": {"maxLength": "5"}}}, "value of '#/properties/a/maxLength'"),
    "property is no schema": ({"properties": {"a/b": 5}}, "value of '#/properties/a~1b'"),
    "draft-07 tuple": ({"type": "array", "items": [STRING]}, "value of '#/items'"),
    "reference to the web": ({"$ref": "http://example.org/schema"}, "leads outside"),
    "reference to a file": ({"$ref": "file:///etc/passwd"}, "leads outside"),
    "reference to nothing": ({"$ref": "#/$defs/nothing"}, "leads to no schema"),
    "reference into what is no schema": ({"$ref": "#/extra", "extra": STRING}, "leads to no schema"),
    "circle": ({"$ref": "#"}, "in a circle through '#'"),
    "recursion": (
        {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}},
        "in a circle through '#'",
    ),
    "circle of two": ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, "in a circle"),
    "another base": ({"properties": {"a": {"$id": "http://example.org/"}}}, "'$id' at '#/properties/a'"),
    "501 properties": (an_object(501), "more than 500 properties"),
    "10,000 properties": (an_object(10_000), "larger than 64 KiB"),
    "501 enum values": ({"enum": list(range(501))}, "more than 500 enum values"),
    "10,000 enum values": ({"enum": list(range(10_000))}, "more than 500 enum values"),
    "17 levels": (nested(17), "deeper than 16 levels"),
    "200 levels": (nested(200), "deeper than 64 levels"),
    "5,000 levels": (nested(5_000), "deeper than 64 levels"),
    "deep default": ({"default": nested(40)}, "deeper than 64 levels"),
    "references that fan out": (fanning_out(30, "anyOf"), "references followed it has more than 3000 subschemas"),
    "20,000 options": ({"anyOf": [{}] * 20_000}, ": it has more than 3000 subschemas"),
    "references in a chain": (a_chain(1000), "deeper than 64 levels"),
    "nested repetition": (a_pattern("(a+)+$"), "repeats a repetition without bound"),
    "nested repetition, deeper": (a_pattern("((a|b*)c){2,}"), "repeats a repetition without bound"),
    "nested repetition, apart": (a_pattern("((a+){2})*"), "repeats a repetition without bound"),
    "look-behind": (a_pattern("(?<=a)b"), "cannot be used from character 1 on"),
    "look-ahead": (a_pattern("^(?!a)b"), "cannot be used from character 2 on"),
    "back-reference": (a_pattern(r"(a)\1"), "cannot be used from character 4 on"),
    "lazy quantifier": (a_pattern("a+?"), "cannot be used from character 3 on"),
    "two quantifiers": (a_pattern("a{2}{3}"), "cannot be used from character 5 on"),
    "anchor within": (a_pattern("a^b"), "cannot be used from character 2 on"),
    "open group": (a_pattern("(a"), "cannot be used from character 3 on"),
    "closed group": (a_pattern("a)"), "cannot be used from character 2 on"),
    "quote in a pattern": (a_pattern('"a"'), "cannot be used from character 1 on"),
    "backwards range": (a_pattern("[z-a]"), "cannot be compiled"),
    "pattern of a name": ({"patternProperties": {"(?=a)": STRING}}, "cannot be used from character 1 on"),
    "1 MB pattern": (a_pattern("a" * 2**20), "larger than 64 KiB"),
    "long pattern": (a_pattern("a" * 501), "longer than 500 characters"),
    "pattern that multiplies": (a_pattern("(a{1000}){1000}"), "more than 2000 positions"),
    "minItems 10^9": ({"type": "array", "items": STRING, "minItems": 10**9}, "'minItems' at '#' is beyond 100000"),
    "minimum 10^400": ({"type": "integer", "minimum": 10**400}, "'minimum' at '#' is beyond"),
    "length between nothing": ({"type": "string", "minLength": 3, "maxLength": 2}, "nothing fits between"),
    "number between nothing": ({"type": "number", "minimum": 2, "exclusiveMaximum": 2}, "nothing fits between"),
    "1 MB": ({"description": "x" * 2**20}, "larger than 64 KiB"),
}

NOT_SUPPORTED: dict[str, tuple[JsonObject, str]] = {
    "multipleOf": ({"type": "integer", "multipleOf": 5}, "'multipleOf' at '#' is not supported"),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a$"}}, "'propertyNames' at '#'"),
    "patternProperties": ({"type": "object", "patternProperties": {"^a": STRING}}, "'patternProperties' at '#'"),
    "uniqueItems": ({"type": "array", "items": STRING, "uniqueItems": False}, "'uniqueItems' at '#'"),
    "contains": ({"properties": {"a": {"type": "array", "contains": STRING}}}, "'contains' at '#/properties/a'"),
    "not": ({"not": STRING}, "'not' at '#'"),
    "pattern and maxLength": (a_pattern("^a$", maxLength=5), "'pattern' and 'maxLength' together"),
    "format and minLength": ({"type": "string", "format": "email", "minLength": 5}, "'format' and 'minLength'"),
    "format and pattern": (a_pattern("^a$", format="date"), "'pattern' and 'format' together"),
    "unknown format": ({"type": "string", "format": "int32"}, "the 'format' at '#' is not supported"),
    "length without type": ({"maxLength": 5}, "'maxLength' at '#' has no 'type' beside it"),
    "required without type": ({"required": ["a"]}, "'required' at '#' has no 'type' beside it"),
    "length beside a reference": (
        {"$ref": "#/$defs/a", "maxLength": 1, "$defs": {"a": STRING}},
        "'maxLength' beside '$ref'",
    ),
    "length beside an enum": ({"type": "string", "enum": ["a", "bc"], "maxLength": 1}, "'maxLength' beside 'enum'"),
    "type beside anyOf": ({"type": "string", "anyOf": [{"maxLength": 1}]}, "'type' beside 'anyOf'"),
    "allOf of two": ({"allOf": [STRING, {"maxLength": 1}]}, "'allOf' at '#' has several schemas"),
    "options that overlap": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "'oneOf' at '#' may overlap"),
    "very many options": ({"oneOf": [{"const": number} for number in range(51)]}, "'oneOf' at '#' may overlap"),
    "value of another type": ({"type": "integer", "const": "a"}, "is not of the 'type' beside it"),
    "truth is no number": ({"type": "integer", "enum": [True]}, "is not of the 'type' beside it"),
    "empty enum": ({"enum": []}, "'enum' at '#' is empty"),
    "false": ({"type": "object", "properties": {"items": False}}, "nothing fits 'false' at '#/properties/items'"),
    "required, but no property": ({"type": "object", "required": ["a"], "properties": {}}, "property 'a' at '#'"),
    "items of no kind": ({"type": "array", "minItems": 1}, "'minItems' at '#' asks for items"),
    "fewer than its prefix": ({"type": "array", "prefixItems": [STRING], "maxItems": 0}, "'maxItems' at '#'"),
    "true in a prefix": ({"type": "array", "prefixItems": [True]}, "no 'true' among 'prefixItems'"),
    "half an integer": ({"type": "integer", "minimum": 2.5}, "must be a whole number"),
    "escaped reference": ({"$ref": "#/$defs/a%20b", "$defs": {"a b": STRING}}, "does not follow the reference"),
    "nine lengths": (
        {
            "type": "object",
            "properties": {f"p{number}": {"type": "string", "maxLength": number} for number in range(9)},
        },
        "more than 8 different limits",
    ),
}

USABLE: dict[str, JsonObject] = {
    "empty": {},
    "alt text": ALT_TEXT,
    "with a draft and an id": {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "http://a.b/c", **ALT_TEXT},
    "boolean schema": {"type": "object", "properties": {"anything": True}, "additionalProperties": False},
    "16 levels": nested(16),
    "500 properties": an_object(500),
    "500 enum values": {"enum": list(range(500))},
    "optional": {"type": "object", "properties": {"a": {"anyOf": [STRING, {"type": "null"}], "default": None}}},
    "nullable": {"type": "object", "properties": {"a": {"type": ["string", "null"], "maxLength": 9}}},
    "literal": {"enum": ["a", None], "type": ["string", "null"]},
    "reference": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": STRING}},
    "draft-07 definitions": {"$ref": "#/definitions/A", "definitions": {"A": ALT_TEXT}},
    "described reference": {"allOf": [{"$ref": "#/$defs/A"}], "description": "An A.", "$defs": {"A": STRING}},
    "same reference often": {
        "type": "object",
        "properties": {name: {"$ref": "#/$defs/A"} for name in "abcdef"},
        "$defs": {"A": ALT_TEXT},
    },
    "tagged union": a_union("cat", "dog"),
    "options by type": {"oneOf": [STRING, {"type": "integer"}, {"type": "null"}]},
    "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}},
    "list": {"type": "array", "items": STRING, "minItems": 1, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [STRING, {"type": "integer"}], "items": False},
    "address": a_pattern(r"^[\w.+-]+@[a-z0-9-]+\.[a-z]{2,}$"),
    "alternatives": a_pattern(r"^(?:\d{4}|unknown)$"),
    "date": {"type": "string", "format": "date"},
    "property called like a keyword": {"type": "object", "properties": {"not": STRING, "$ref": STRING, "enum": STRING}},
    "unknown words": {"type": "string", "x-order": 5, "nullable": True},
}


@pytest.mark.parametrize(("given_", "reason"), OUT_OF_BOUNDS.values(), ids=OUT_OF_BOUNDS)
def test_what_is_out_of_bounds_is_refused(given_: JsonObject, reason: str) -> None:
    """Each hostile schema gets one short sentence of ours with its place, and the next plain one is served."""
    with pytest.raises(InvalidRequest) as refused:
        schema.ensure_bounds(given_)

    assert reason in refused.value.message
    assert refused.value.param == "response_format"
    assert len(refused.value.message) < 600
    schema.ensure_bounds(ALT_TEXT)
    assert schema.checked(ALT_TEXT).is_valid('{"alt_text": "A cat."}')


@pytest.mark.parametrize(("given_", "reason"), NOT_SUPPORTED.values(), ids=NOT_SUPPORTED)
def test_what_the_engine_would_drop_is_refused_for_it_alone(given_: JsonObject, reason: str) -> None:
    """Another engine may honour it: the bounds let it pass, and only the engine's own check says what to write."""
    schema.ensure_bounds(given_)

    with pytest.raises(InvalidRequest) as refused:
        schema.ensure_supported(given_)

    assert reason in refused.value.message
    assert refused.value.code == "invalid_json_schema"


@pytest.mark.parametrize("given_", USABLE.values(), ids=USABLE)
def test_what_clients_really_send_passes(given_: JsonObject) -> None:
    """The schemas of OpenAI's SDKs, Pydantic and Zod pass both checks and stay as they were."""
    before = json.dumps(given_)

    schema.ensure_bounds(given_)
    schema.ensure_supported(given_)

    assert json.dumps(given_) == before


@pytest.mark.parametrize("preset", prompts.load().values(), ids=lambda preset: str(preset.field))
def test_the_presets_keep_their_own_rules(preset: prompts.Preset) -> None:
    """No preset's schema is refused."""
    schema.ensure_bounds(preset.schema)
    schema.ensure_supported(preset.schema)


@pytest.mark.parametrize("check", [schema.ensure_bounds, schema.ensure_supported])
@pytest.mark.parametrize("param", ["response_format", "tools[1].function.parameters"])
def test_the_error_names_the_field_that_the_schema_came_in(check: Any, param: str) -> None:
    """It is 400 and not to be tried again, whether the schema is an answer's or a tool's."""
    with pytest.raises(InvalidRequest) as refused:
        check({"$ref": "#/nothing", "not": {}}, param=param)
    status, headers, body = render(refused.value)
    error = json.loads(body)["error"]

    assert (status, headers["x-should-retry"]) == (400, "false")
    assert (error["param"], error["code"]) == (param, "invalid_json_schema")
    assert error["message"].startswith(f"Invalid schema for {param}: ")


# --- whatever is sent ---

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab#/$")
KEYWORDS = (
    *("type", "properties", "items", "required", "enum", "const", "anyOf", "oneOf", "allOf", "not", "$ref", "$defs"),
    *("pattern", "format", "minLength", "maxLength", "minItems", "minimum", "maximum", "prefixItems", "if", "$id"),
    *("additionalProperties", "patternProperties", "multipleOf", "uniqueItems", "dependencies", "definitions"),
)
WORDS = st.sampled_from(
    [*("string", "integer", "object", "array", "null", "#", "#/$defs/a", "#/properties/a", "date", "^a+$", "(", "a")]
)
NAMES = st.sampled_from(KEYWORDS) | st.sampled_from(["a", "b", "0"])
SCHEMAS = st.dictionaries(
    NAMES,
    st.recursive(LEAVES | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4)),
    max_size=5,
)


@UNHURRIED
@given(SCHEMAS)
def test_any_json_is_refused_or_becomes_a_checker(given_: JsonObject) -> None:
    """Nothing but InvalidRequest ever comes of a schema, and what passed can check answers."""
    with suppress(InvalidRequest):
        schema.ensure_bounds(given_)
        assert schema.checked(given_).is_valid("{}") in {True, False}
        schema.ensure_supported(given_)


@UNHURRIED
@given(st.text(r"ab()[]{}*+?|^$\.,-0123dwW:", max_size=30))
def test_any_pattern_is_refused_or_compiles(pattern: str) -> None:
    """A pattern of the subset is one for the validator as well."""
    with suppress(InvalidRequest):
        schema.ensure_bounds(a_pattern(pattern))
        assert schema.checked(a_pattern(pattern)).is_valid('"a"') in {True, False}


# --- answers ---


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"alt_text": "A cat."}', True),
        (' {"alt_text": "A cat \\u2014 asleep."}\n', True),
        ('{"alt_text": "' + "é" * 120 + '"}', True),
        ('{"alt_text": "' + "é" * 121 + '"}', False),
        ('{"alt_text": "A cat.", "title": "Cat"}', False),
        ('{"alt_text": null}', False),
        ("{}", False),
        ('{"alt_text": "A ca', False),
        ('{"alt_text": "A cat."} Done.', False),
        ('```json\n{"alt_text": "A cat."}\n```', False),
        ("{'alt_text': 'A cat.'}", False),
        ('{"alt_text": "A cat.",}', False),
        ('{"alt_text": "\\ud800"}', False),
        ('{"alt_text": "\ud800"}', False),
        ("A cat.", False),
        ("", False),
        ("[" * 100_000, False),
    ],
)
def test_an_answer_is_the_whole_json_and_nothing_else(answer: str, valid: bool) -> None:
    """What a client's strict parser and its schema would take, and only that."""
    assert schema.checked(ALT_TEXT).is_valid(answer) is valid


@pytest.mark.parametrize(
    ("given_", "answer", "valid"),
    [
        ({"type": "string", "format": "date"}, '"2026-02-28"', True),
        ({"type": "string", "format": "date"}, '"2026-02-31"', True),
        ({"type": "string", "format": "ours"}, '"anything"', True),
        (a_pattern(r"^\d+$"), '"123"', True),
        (a_pattern(r"^\d+$"), '"١٢٣"', False),
        ({"type": "number"}, "NaN", False),
        ({"type": "number"}, "1e999", False),
    ],
)
def test_formats_and_numbers_are_checked(given_: JsonObject, answer: str, valid: bool) -> None:
    """Formats are notes; digits are ASCII; what no parser reads is not valid."""
    assert schema.checked(given_).is_valid(answer) is valid


def test_an_ambiguous_pattern_takes_no_time() -> None:
    """Patterns are matched by an automaton: one that tries every way would not end here."""
    ambiguous = a_pattern("^(a|a|aa)*b$")
    schema.ensure_bounds(ambiguous)

    assert not schema.checked(ambiguous).is_valid(json.dumps("a" * 100_000))


def test_a_schema_is_compiled_once() -> None:
    """Whatever the order of its keys and the draft that it names."""
    turned = {"$schema": "https://json-schema.org/draft/2020-12/schema", **dict(reversed(ALT_TEXT.items()))}

    assert schema.checked(turned) is schema.checked(ALT_TEXT)


def test_few_schemas_are_kept() -> None:
    """A flood of different schemas takes the place of the oldest, not more memory."""
    first = weakref.ref(schema.checked({"title": "first"}))

    for number in range(MAX_KEPT):
        schema.checked({"title": f"number {number}"})
    gc.collect()

    assert first() is None


def test_nothing_is_fetched_or_read(tmp_path: Path) -> None:
    """Even a checker that was made without the bounds stays offline."""
    other = tmp_path / "other.json"
    other.write_text('{"type": "string"}')

    with pytest.raises(jsonschema_rs.ValidationError):
        schema.checked({"$ref": other.as_uri()})


def test_no_pattern_is_matched_by_trying() -> None:
    """What only a backtracking engine could match is not even compiled."""
    with pytest.raises(jsonschema_rs.ValidationError):
        schema.checked(a_pattern("^(?!a)b"))
