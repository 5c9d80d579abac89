"""Raw control characters in constrained answers: JSON afterwards, and the same as was meant."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import mending, wire
from gateway.catalogue import EngineKind, Model
from gateway.completion import Gathered

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
IN_FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}


def request(**fields: Any) -> wire.ChatRequest:
    """A request with those fields."""
    return wire.decode_request(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields).encode()
    )


IN = request(**IN_FORMAT)


@pytest.mark.parametrize(
    ("fields", "engine", "args", "applies"),
    [
        (IN_FORMAT, "vllm", {}, True),
        (FORCED, "vllm", {}, True),
        ({"tools": [TOOL], "tool_choice": "required"}, "vllm", {}, True),
        ({}, "vllm", {}, False),
        ({"tools": [TOOL], "tool_choice": "auto"}, "vllm", {}, False),
        ({"tools": [TOOL]}, "vllm", {}, False),
        (IN_FORMAT, "remote", {}, False),
        (IN_FORMAT, "blip", {}, False),
        (IN_FORMAT, "vllm", {"structured-outputs-config": {"backend": "guidance"}}, False),
    ],
)
def test_only_where_a_control_character_must_stand_in_a_string(
    fields: dict[str, Any], engine: EngineKind, args: dict[str, Any], applies: bool
) -> None:
    """Elsewhere it may be white space between strings, or be meant."""
    assert mending.applies(request(**fields), Model(name="m", engine=engine, source="x", args=args)) == applies


@given(st.text(alphabet=st.characters(exclude_characters='"\\')), st.integers(0, 30))
def test_what_was_meant_stays(words: str, cut: int) -> None:
    """Whole or in pieces, in words or in the arguments of a call."""
    raw = '{"a": "' + words + '"}'
    call = wire.ToolCall("c", wire.CalledFunction("f", raw))
    message = wire.AssistantMessage(content=raw, tool_calls=[call])
    mended = mending.whole(wire.Choice(index=0, message=message, finish_reason="stop"), IN).message

    gathered = Gathered()
    for part, reason in ((raw[:cut], None), (raw[cut:], "stop")):
        calls = [wire.ToolCallDelta(0, "c", "function", wire.FunctionDelta("f", part))]
        delta = wire.Delta(content=part, tool_calls=calls)
        choice = wire.ChunkChoice(index=0, delta=delta, finish_reason=reason)  # type: ignore[arg-type]
        gathered.add(mending.piece(wire.Chunk(id="x", created=1, model="m", choices=[choice]), IN))
    streamed = gathered.result()[0][0].message

    for text in (
        mended.content,
        streamed.content,
        *(each.tool_calls[0].function.arguments for each in (mended, streamed) if each.tool_calls),
    ):
        assert json.loads(text or "") == {"a": words}


def test_words_beside_a_call_that_is_forced_stay() -> None:
    """No grammar is kept by them, so what is in them is meant; whole and streamed."""
    asked, call = request(**FORCED), wire.CalledFunction("f", '{"a": "\n"}')
    message = wire.AssistantMessage(content="one\n\ttwo", tool_calls=[wire.ToolCall("c", call)])
    whole = mending.whole(wire.Choice(index=0, message=message, finish_reason="stop"), asked).message
    choice = wire.ChunkChoice(index=0, delta=wire.Delta(content="one\n\ttwo"))
    piece = mending.piece(wire.Chunk(id="x", created=1, model="m", choices=[choice]), asked)

    assert [whole.content, piece.choices[0].delta.content] == ["one\n\ttwo"] * 2
    assert [each.function.arguments for each in whole.tool_calls or ()] == ['{"a": "\\u000a"}']


def test_what_has_nothing_raw_stays_as_it_is() -> None:
    """Nor is anything added to what is empty."""
    message = wire.AssistantMessage(content=None, refusal="no")
    choice = wire.Choice(index=0, message=message, finish_reason="stop")
    chunk = wire.Chunk(
        id="x", created=1, model="m", choices=[wire.ChunkChoice(index=0, delta=wire.Delta(role="assistant"))]
    )

    assert mending.whole(choice, IN) == choice
    assert mending.piece(chunk, IN) == chunk
    assert mending.escaped("a cat, é 😀 \x7f") == "a cat, é 😀 \x7f"
