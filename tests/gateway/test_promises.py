"""Promises of answers: refused when they cannot be given, and told when they were not kept."""

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from gateway import promises, wire
from gateway.catalogue import EngineKind, Model
from gateway.errors import EngineFault, InvalidRequest
from gateway.wire import CalledFunction, Choice, ToolCall

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 5}},
    "required": ["a"],
    "additionalProperties": False,
}
ENDLESS: dict[str, Any] = {"type": "array", "minItems": 10**9}
HALF_HONOURED: dict[str, Any] = {"type": "array", "uniqueItems": True}
FORMAT = wire.ResponseFormat("json_schema", wire.JsonSchema("s", SCHEMA))


def tools(**parameters: dict[str, Any] | None) -> list[wire.Tool]:
    """Tools by name, with their parameters."""
    return [wire.Tool(wire.Function(name, None, schema)) for name, schema in parameters.items()]


def asking(**fields: Any) -> wire.ChatRequest:
    """A request with those fields."""
    return wire.ChatRequest(model="m", messages=[], **fields)


def model(engine: EngineKind) -> Model:
    """A model of that kind."""
    return Model(name="m", engine=engine, source="x")


def said(
    content: str | None, *calls: tuple[str, str], reason: wire.FinishReason = "stop", refusal: str | None = None
) -> Choice:
    """A choice with that content and those calls, each a name and arguments."""
    made = [ToolCall("c", CalledFunction(*call)) for call in calls]
    message = wire.AssistantMessage(content=content, tool_calls=made or UNSET, refusal=refusal)
    return Choice(index=0, message=message, finish_reason=reason)


def named(name: str) -> wire.NamedTool:
    """The choice of the tool of that name."""
    return wire.NamedTool(wire.FunctionName(name))


def in_format(schema: dict[str, Any]) -> wire.ChatRequest:
    """A request whose answer is to keep to that schema."""
    return asking(response_format=wire.ResponseFormat("json_schema", wire.JsonSchema("s", schema)))


@pytest.mark.parametrize("engine", ["blip", "vllm", "remote"])
@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (in_format(ENDLESS), "response_format"),
        (asking(tools=tools(f=None, g=ENDLESS), tool_choice="required"), "tools[1].function.parameters"),
        (asking(tools=tools(f=None, g=ENDLESS), tool_choice=named("g")), "tools[1].function.parameters"),
    ],
)
def test_a_schema_out_of_bounds_is_refused_for_every_engine(
    engine: EngineKind, asked: wire.ChatRequest, param: str
) -> None:
    """An answer's, or that of a tool that has to be called."""
    with pytest.raises(InvalidRequest) as caught:
        promises.ensure_possible(asked, model(engine))

    assert (caught.value.param, caught.value.code) == (param, "invalid_json_schema")


@pytest.mark.parametrize(
    "asked", [in_format(HALF_HONOURED), asking(tools=tools(f=HALF_HONOURED), tool_choice="required")]
)
def test_what_vllm_would_honour_in_part_is_refused_for_vllm_alone(asked: wire.ChatRequest) -> None:
    """Other engines do their own thing, and their answers are checked."""
    with pytest.raises(InvalidRequest):
        promises.ensure_possible(asked, model("vllm"))
    promises.ensure_possible(asked, model("blip"))
    promises.ensure_possible(asked, model("remote"))


@pytest.mark.parametrize(
    "asked",
    [
        asking(),
        in_format(SCHEMA),
        asking(tools=tools(f=ENDLESS)),
        asking(tools=tools(f=ENDLESS), tool_choice="auto"),
        asking(tools=tools(f=ENDLESS), tool_choice="none"),
        asking(tools=tools(f=ENDLESS, g=SCHEMA), tool_choice=named("g")),
        asking(tools=tools(f=None), tool_choice="required"),
    ],
)
def test_what_constrains_no_answer_is_not_looked_at(asked: wire.ChatRequest) -> None:
    """A tool that may be called is only words to the model."""
    promises.ensure_possible(asked, model("vllm"))


FORCED = asking(tools=tools(f=SCHEMA, g=None), tool_choice="required")
NAMED = asking(tools=tools(f=SCHEMA, g=None), tool_choice=named("g"))
BOTH = asking(tools=tools(f=SCHEMA), tool_choice="auto", response_format=FORMAT)


@pytest.mark.parametrize(
    ("asked", "choice", "kept"),
    [
        (asking(), said("just words"), True),
        (in_format(SCHEMA), said('{"a": "cat"}'), True),
        (in_format(SCHEMA), said('{"a": "a longer one"}'), False),
        (in_format(SCHEMA), said('{"b": 1}'), False),
        (in_format(SCHEMA), said("```json\n{}\n```"), False),
        (in_format(SCHEMA), said(""), False),
        (in_format(SCHEMA), said(None, ("f", "{}")), True),
        (in_format(SCHEMA), said('{"a": "c', reason="length"), True),
        (in_format(SCHEMA), said("", reason="content_filter"), True),
        (in_format(SCHEMA), said("No picture.", refusal="No picture."), True),
        (BOTH, said('{"a": "cat"}'), True),
        (BOTH, said(None, ("f", "no JSON"), reason="tool_calls"), True),
        (FORCED, said(None, ("f", '{"a": "cat"}'), reason="tool_calls"), True),
        (FORCED, said(None, ("g", "{}"), ("f", '{"a": "cat"}')), True),
        (FORCED, said(None, ("g", "{}"), ("f", "{}")), False),
        (FORCED, said(None, ("h", "{}")), False),
        (FORCED, said(None, ("g", "no JSON")), False),
        (FORCED, said(None, ("g", "[]")), False),
        (FORCED, said("I would rather talk."), False),
        (FORCED, said(None, ("f", '{"a'), reason="length"), True),
        (NAMED, said(None, ("g", "{}")), True),
        (NAMED, said(None, ("f", '{"a": "cat"}')), False),
    ],
)
def test_answers_are_held_to_what_was_asked_for(asked: wire.ChatRequest, choice: Choice, kept: bool) -> None:
    """Whole ones; what was cut off says so itself."""
    cut_off = replace(said("a", reason="length"), index=1)
    assert promises.are_kept(replace(asked, n=2), [choice, cut_off]) is kept
    if kept:
        promises.ensure_kept(asked, [choice])
    else:
        with pytest.raises(EngineFault, match="Try again"):
            promises.ensure_kept(asked, [choice])


def test_the_fault_names_the_field_that_asked() -> None:
    """Tools where a call was forced, the format of the answer otherwise."""
    for asked, field in ((FORCED, "'tools'"), (in_format(SCHEMA), "'response_format'")):
        with pytest.raises(EngineFault, match=field):
            promises.ensure_kept(asked, [said("words")])


@pytest.mark.parametrize(
    ("reasons", "complete"), [(["stop", "tool_calls"], True), (["stop", "length"], False), (["content_filter"], False)]
)
def test_answers_are_complete_when_all_came_to_their_own_end(reasons: list[wire.FinishReason], complete: bool) -> None:
    """Only these are kept."""
    assert promises.is_complete([said("a", reason=reason) for reason in reasons]) is complete


@pytest.mark.parametrize("choices", [[], [said("a"), said("b")], [replace(said("a"), index=1)]])
def test_answers_are_as_many_as_were_asked_for(choices: list[Choice]) -> None:
    """More, fewer, or one under a wrong number is none that is kept."""
    assert not promises.are_kept(asking(), choices)


@pytest.mark.parametrize("choices", [[], [said("a"), said("b")]])
def test_a_wrong_number_of_answers_is_the_engines_fault(choices: list[Choice]) -> None:
    """Clients take the first, or all, and must be able to rely on their number."""
    with pytest.raises(EngineFault, match="where 1 were asked for"):
        promises.ensure_kept(asking(), choices)


def test_what_a_clients_own_stop_has_cut_is_let_pass() -> None:
    """The engine is not to blame; but the half is not kept for others either."""
    asked = replace(in_format(SCHEMA), stop='"')

    promises.ensure_kept(asked, [said("{")])
    assert not promises.are_kept(asked, [said("{")])
