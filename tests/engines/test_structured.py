"""Structured output: which schemas a caption can fill honestly, and with what."""

import json
from typing import Annotated, Any, Literal

import pytest
from openai.lib._parsing._completions import type_to_response_format_param
from pydantic import BaseModel, Field

from engines.structured import CAPTION_OBJECT, Filling, plan, shorten
from gateway.wire import Fault

STRING = {"type": "string"}


def schema(properties: dict[str, Any], required: list[str] | None = None, defs: Any = None) -> dict[str, Any]:
    """An object's schema; everything is required unless said otherwise."""
    wanted = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": wanted,
        "additionalProperties": False,
        "$defs": defs or {},
    }


@pytest.mark.parametrize(
    ("asked", "filled"),
    [
        pytest.param(schema({"alt_text": STRING}), {"alt_text": "a cat"}, id="one string"),
        pytest.param(schema({"anything": STRING}), {"anything": "a cat"}, id="one string of any name"),
        pytest.param(schema({"text": STRING}, []), {"text": "a cat"}, id="one optional string"),
        pytest.param(
            schema({"title": STRING, "caption": STRING}, ["caption"]), {"caption": "a cat"}, id="optional left"
        ),
        pytest.param(
            schema({"title": {**STRING, "default": "t"}, "summary": STRING}),
            {"title": "t", "summary": "a cat"},
            id="a default does not carry",
        ),
        pytest.param(
            schema({"title": {"type": ["string", "null"]}, "caption": STRING}),
            {"title": None, "caption": "a cat"},
            id="nullable by a list of types",
        ),
        pytest.param(
            schema({"tags": {"type": "array", "default": []}, "caption": STRING}),
            {"tags": [], "caption": "a cat"},
            id="a default of any type",
        ),
        pytest.param(
            schema({"kind": {"const": "alt", "type": "string"}, "caption": STRING}),
            {"kind": "alt", "caption": "a cat"},
            id="what is settled is said",
        ),
        pytest.param(
            schema({"a": {"anyOf": [STRING, {"type": "null"}]}}),
            {"a": "a cat"},
            id="a nullable string carries, if alone",
        ),
        pytest.param(
            schema({"a": {"$ref": "#/$defs/Words"}}, defs={"Words": STRING}), {"a": "a cat"}, id="a reference"
        ),
        pytest.param(
            {"$ref": "#/$defs/Root", "$defs": {"Root": schema({"a": STRING})}}, {"a": "a cat"}, id="a root by reference"
        ),
        pytest.param({"anyOf": [schema({"a": STRING}), {"type": "null"}]}, {"a": "a cat"}, id="a nullable root"),
        pytest.param(
            {**schema({"a": STRING}), "type": ["object", "null"]}, {"a": "a cat"}, id="a root that may be null"
        ),
        pytest.param(
            schema({"a": {**STRING, "minLength": 1, "maxLength": 3, "title": "A", "description": "d"}}),
            {"a": "a"},
            id="lengths and descriptions",
        ),
        pytest.param(schema({"a": {"$ref": "#/$defs/x~1y"}}, defs={"x/y": STRING}), {"a": "a cat"}, id="escapes"),
        pytest.param(
            schema({"a": {"allOf": [{"$ref": "#/$defs/T"}], "title": "A"}}, defs={"T": STRING}),
            {"a": "a cat"},
            id="a reference in an allOf of one",
        ),
    ],
)
def test_a_schema_that_a_caption_fills(asked: dict[str, Any], filled: dict[str, Any]) -> None:
    """The answer is compact JSON with the caption, defaults and nulls, in the schema's order."""
    answer = plan(asked).fill("a cat")
    assert json.loads(answer) == filled
    assert list(json.loads(answer)) == list(filled)
    assert answer == json.dumps(filled, separators=(",", ":"))


@pytest.mark.parametrize(
    "names", [["title", "alt_text"], ["text", "caption"], ["title", "text"], ["description", "text"]]
)
def test_of_several_strings_the_best_named_one_carries(names: list[str]) -> None:
    """The order is alt_text, caption, description, text, title, when the others can be left out."""
    order = ["alt_text", "caption", "description", "text", "title"]
    assert plan(schema(dict.fromkeys(names, STRING), [])).carrier == min(names, key=order.index)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        pytest.param({**schema({"a": STRING}), "required": 5}, "'required' must be a list", id="required is no list"),
        pytest.param({**schema({"a": STRING}), "anyOf": [{"required": ["b"]}]}, "'anyOf'", id="choices at the root"),
        pytest.param({**schema({"a": STRING}), "patternProperties": {"^a": {}}}, "'patternProperties'", id="patterns"),
        pytest.param({**schema({"a": STRING}), "dependencies": {"a": ["b"]}}, "'dependencies'", id="dependencies"),
        pytest.param(
            schema({"a": STRING, "n": {"type": "integer", "default": "many"}}), "not of its type", id="a wrong default"
        ),
        pytest.param(schema({"a": {**STRING, "maxLength": True}}), "'maxLength'", id="a length that is no number"),
        pytest.param({"type": "array", "items": STRING}, "its root must be an object", id="an array"),
        pytest.param({}, "its root must be an object", id="nothing"),
        pytest.param({"type": "object"}, "its root must be an object with properties", id="no properties"),
        pytest.param(schema({"a": STRING, "b": STRING}), "several of its properties are strings", id="which one"),
        pytest.param(schema({"caption": STRING, "b": STRING}), "'b' would have to be made up", id="a second string"),
        pytest.param(
            schema({"caption": STRING, "n": {"type": "integer"}}), "'n' would have to be made up", id="a number"
        ),
        pytest.param(schema({"n": {"type": "integer"}}), "none of its properties is a string", id="no string"),
        pytest.param(schema({"a": {**STRING, "enum": ["x"]}}), "none of its properties is a string", id="enum"),
        pytest.param(schema({"a": {**STRING, "pattern": "^x"}}), "'pattern' of the property 'a'", id="pattern"),
        pytest.param(schema({"a": {**STRING, "format": "date"}}), "'format' of the property 'a'", id="format"),
        pytest.param(schema({"a": {**STRING, "minLength": 9}}), "'minLength' of the property 'a'", id="minLength"),
        pytest.param(schema({"a": {**STRING, "maxLength": 0}}), "'maxLength' of the property 'a'", id="maxLength"),
        pytest.param(schema({"a": STRING}, ["a", "b"]), "'b' is not among its properties", id="an unknown requirement"),
        pytest.param(schema({"a": {"$ref": "#/$defs/b"}}), "leads nowhere", id="a broken reference"),
        pytest.param(schema({"a": {"$ref": "https://x/y"}}), "leads outside of it", id="a foreign reference"),
        pytest.param(
            schema({"a": {"$ref": "#/$defs/b"}}, defs={"b": {"$ref": "#/$defs/b"}}),
            "in a circle",
            id="a circle",
        ),
        pytest.param({**schema({"a": STRING}), "oneOf": []}, "its root uses 'oneOf'", id="oneOf"),
        pytest.param(schema({"a": "string"}), "a property of it is no schema", id="no schema"),
        pytest.param(
            schema({"a": {"anyOf": [STRING, {"type": "integer"}]}}), "none of its properties is a string", id="a choice"
        ),
    ],
)
def test_a_schema_that_a_caption_cannot_fill(asked: dict[str, Any], reason: str) -> None:
    """The fault names the field, the reason and what would work."""
    with pytest.raises(Fault) as fault:
        plan(asked)
    assert fault.value.param == "response_format"
    assert fault.value.code == "invalid_json_schema"
    assert reason in fault.value.message
    assert "single string property" in fault.value.message


def test_a_schema_is_read_within_bounds() -> None:
    """Neither depth nor size of a hostile schema costs more than a look."""
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"properties": deep}
    with pytest.raises(Fault, match="deeper than 32 levels"):
        plan(deep)
    with pytest.raises(Fault, match="more than 5000 values"):
        plan(schema({"caption": {**STRING, "default": list(range(5000))}}))


@pytest.mark.parametrize(
    ("text", "length", "kept"),
    [
        ("a cat on a mat", 14, "a cat on a mat"),
        ("a cat on a mat", 13, "a cat on a"),
        ("a cat on a mat", 5, "a cat"),
        ("a cat on a mat", 6, "a cat"),
        ("a cat, on a mat", 6, "a cat"),
        ("extraordinarily", 5, "extra"),
        ("extraordinarily long", 5, "extra"),
        ("käse", 3, "käs"),
        ("a cat", 1, "a"),
    ],
)
def test_a_long_caption_ends_at_a_word(text: str, length: int, kept: str) -> None:
    """`maxLength` counts characters and is never exceeded; only a first word that is too long is cut."""
    assert shorten(text, length) == kept
    assert len(kept) <= length


def test_an_object_without_a_schema_has_a_caption() -> None:
    """`json_object` gives {"caption": ...}, and quotes are escaped."""
    assert CAPTION_OBJECT.fill('a "cat"') == '{"caption":"a \\"cat\\""}'


class Language(BaseModel):
    code: str


class AltText(BaseModel):
    """Alt text."""

    alt_text: str = Field(max_length=20, description="at most 20 characters")
    tags: list[str] = []
    kind: Literal["alt"] = "alt"
    language: Language | None = None


class OnlyWords(BaseModel):
    caption: Annotated[str, Field(min_length=1)]
    confidence: float | None = None


class Strings(BaseModel):
    title: str = "untitled"
    words: str


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (AltText, {"alt_text": "a cat lies on a red", "tags": [], "kind": "alt", "language": None}),
        (OnlyWords, {"caption": "a cat lies on a red mat", "confidence": None}),
        (Strings, {"title": "untitled", "words": "a cat lies on a red mat"}),
    ],
)
def test_the_sdk_parses_what_is_filled(model: type[BaseModel], values: dict[str, Any]) -> None:
    """What `parse(response_format=Model)` sends is filled so that the same model validates it."""
    sent: Any = type_to_response_format_param(model)
    answer = plan(sent["json_schema"]["schema"]).fill("a cat lies on a red mat")
    assert model.model_validate_json(answer).model_dump() == values


def test_a_filling_is_a_value() -> None:
    """Plans of equal schemas are equal, so they may be compared and kept."""
    assert plan(schema({"a": STRING})) == Filling("a", None, {"a": ""})
