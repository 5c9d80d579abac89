"""What BLIP makes of a chat request, and which fields it refuses rather than ignores."""

import json
from typing import Any

import pytest

from engines.blip.job import Sampling
from engines.blip.request import Beginning, Wanted, has_picture, read
from engines.structured import CAPTION_OBJECT
from gateway.wire import Fault, decode_request

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": [{"type": "text", "text": "Describe it."}, PICTURE]}


def wanted(*messages: dict[str, Any], **fields: Any) -> Wanted:
    """Read a request of the given messages, one with a picture when there are none."""
    body = {"model": "m", "messages": list(messages) or [USER], **fields}
    return read(decode_request(json.dumps(body).encode()), max_choices=4)


def test_the_defaults() -> None:
    """Greedy, one choice, fifty tokens, no beginning: an instruction is not fed to the decoder."""
    assert wanted({"role": "system", "content": "Be brief."}, USER) == Wanted(
        path="messages[1].content[1].image_url.url",
        url="data:image/png;base64,AAAA",
        beginning=Beginning(echoed=True),
        limit=50,
        sampling=Sampling(),
        choices=1,
        stops=(),
        filling=None,
    )


def test_fields_that_are_honoured() -> None:
    """What the client asks for reaches the model."""
    asked = wanted(temperature=0.5, top_p=0.9, seed=3, n=2, stop=["a", ""], max_tokens=7)
    assert asked.sampling == Sampling(0.5, 0.9, 3)
    assert (asked.choices, asked.stops, asked.limit) == (2, ("a",), 7)
    assert wanted(max_tokens=7, max_completion_tokens=9).limit == 9
    assert wanted(max_tokens=-1).limit == 50
    assert wanted(response_format={"type": "json_object"}).filling is CAPTION_OBJECT


@pytest.mark.parametrize(
    ("last", "fields", "beginning"),
    [
        ("a photo of ", {}, Beginning("a photo of", echoed=False)),
        (None, {"altgate": {"prefix": " A photo of"}}, Beginning("A photo of", echoed=True)),
        ("  ", {"altgate": {"prefix": "a"}}, Beginning("a", echoed=True)),
        (None, {"altgate": {"prefix": "  "}}, Beginning("", echoed=True)),
    ],
)
def test_how_a_caption_begins(last: str | None, fields: dict[str, Any], beginning: Beginning) -> None:
    """A trailing assistant message is continued, `altgate.prefix` is continued and repeated."""
    turns = [USER] if last is None else [USER, {"role": "assistant", "content": last}]
    assert wanted(*turns, **fields).beginning == beginning


def test_an_assistant_message_in_the_middle_is_no_beginning() -> None:
    """Only a trailing one asks to be continued."""
    assert wanted(USER, {"role": "assistant", "content": "a cat"}, USER | {"content": "And now?"}).beginning.text == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -0.5}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Any], param: str) -> None:
    """The fault names the field and what to do."""
    with pytest.raises(Fault) as fault:
        wanted(**fields)
    assert (fault.value.param, fault.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "temperature": 0},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "top_logprobs": 0},
        {"tool_choice": "required"},
        {"tools": [], "tool_choice": "required"},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"response_format": {"type": "text"}, "stop": None, "seed": None},
    ],
)
def test_what_changes_nothing_is_accepted(fields: dict[str, Any]) -> None:
    """Fields at their neutral value, and tools that need not be called, are no reason to refuse."""
    assert wanted(**fields).choices == 1


def test_a_second_picture_is_refused_by_its_path() -> None:
    """One picture a request; the fault names the second and the remedy."""
    with pytest.raises(Fault, match="Send a request for each") as fault:
        wanted(USER, {"role": "user", "content": [PICTURE]})
    assert (fault.value.param, fault.value.code) == ("messages[1].content[0].image_url.url", "invalid_value")


def test_more_choices_than_a_batch_has_room_for_are_refused() -> None:
    """The fault says how many there may be."""
    with pytest.raises(Fault, match="at most 4") as fault:
        wanted(n=5, temperature=1)
    assert (fault.value.param, fault.value.code) == ("n", "invalid_value")


def test_two_beginnings_are_refused() -> None:
    """A prefix and a trailing assistant message contradict each other."""
    with pytest.raises(Fault) as fault:
        wanted(USER, {"role": "assistant", "content": "a"}, altgate={"prefix": "b"})
    assert fault.value.param == "altgate.prefix"


def test_a_beginning_is_bounded() -> None:
    """Nobody makes the engine tokenise a book."""
    with pytest.raises(Fault) as fault:
        wanted(altgate={"prefix": "a" * 4001})
    assert (fault.value.param, fault.value.code) == ("altgate.prefix", "string_above_max_length")


def test_a_schema_is_planned_at_once() -> None:
    """A schema that no caption fills is refused before any work."""
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    with pytest.raises(Fault) as fault:
        wanted(response_format=schema)
    assert fault.value.param == "response_format"


def test_a_request_without_a_picture_is_told_apart() -> None:
    """Its answer is a fixed sentence, so nothing else of it matters."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    assert not has_picture(decode_request(json.dumps(body).encode()))
