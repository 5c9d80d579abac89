"""What an answer promises: the schema that its words keep to, the tools that it calls. Pure.

Checked twice: whether the promise can be given, before any work; whether it was kept, before an answer is passed on.
"""

from collections.abc import Iterator, Sequence

from gateway import schema
from gateway.catalogue import Model
from gateway.errors import EngineFault
from gateway.wire import ChatRequest, Choice, JsonObject, NamedTool, Tool, ToolCall

COMPLETE = ("stop", "tool_calls")


def ensure_possible(asked: ChatRequest, model: Model) -> None:
    """Refuses a schema that is out of bounds, or that the model's engine would honour in part.

    Raises:
        InvalidRequest: there is one; the message says where in it, and what would work.
    """
    for given, param in _schemas(asked):
        schema.ensure_bounds(given, param=param)
        if model.engine == "vllm":
            schema.ensure_supported(given, param=param)


def is_complete(choices: Sequence[Choice]) -> bool:
    """Whether every answer came to its own end."""
    return all(choice.finish_reason in COMPLETE for choice in choices)


def are_kept(asked: ChatRequest, choices: Sequence[Choice]) -> bool:
    """Whether there are as many answers as were asked for, and each that came to its own end is what was asked for.

    One that was cut off cannot be.
    """
    if sorted([choice.index for choice in choices]) != list(range(asked.n or 1)):
        return False
    if asked.response_format is None and asked.tools is None:
        return True
    return all(_is_kept(asked, choice) for choice in choices if choice.finish_reason in COMPLETE)


def ensure_kept(asked: ChatRequest, choices: Sequence[Choice]) -> None:
    """Refuses answers that are not what was asked for.

    Raises:
        EngineFault: there are more or fewer than were asked for; one does not keep to its schema, or calls no tool, or
            none that was given. Where the client set a stop, that may have cut the answer, and it is let pass.
    """
    if len(choices) != (asked.n or 1):
        raise EngineFault(
            f"The engine of '{asked.model}' gave {len(choices)} answers where {asked.n or 1} were asked for. Try again."
        )
    if not asked.stops and not are_kept(asked, choices):
        raise EngineFault(
            f"The engine of '{asked.model}' gave an answer that does not keep to what was asked for in "
            f"'{'tools' if _forced(asked) else 'response_format'}'. Try again; if it happens again, the schema asks "
            "for more than the model can do, or the engine does not constrain answers."
        )


def _schemas(asked: ChatRequest) -> Iterator[tuple[JsonObject, str]]:
    wanted = asked.response_format
    if wanted is not None and wanted.json_schema is not None:
        yield wanted.json_schema.schema, "response_format"
    for at, tool in _forced(asked).items():
        if tool.function.parameters is not None:
            yield tool.function.parameters, f"tools[{at}].function.parameters"


def _forced(asked: ChatRequest) -> dict[int, Tool]:
    """The tools one of which has to be called, each by its place; none where words would do."""
    choice, tools = asked.tool_choice, dict(enumerate(asked.tools or []))
    if isinstance(choice, NamedTool):
        return {at: tool for at, tool in tools.items() if tool.function.name == choice.function.name}
    return tools if choice == "required" else {}


def _is_kept(asked: ChatRequest, choice: Choice) -> bool:
    message, wanted = choice.message, asked.response_format
    if message.refusal is not None:
        return True
    if forced := {tool.function.name: tool for tool in _forced(asked).values()}:
        return bool(message.tool_calls) and all(_is_call_of(forced, call) for call in message.tool_calls or [])
    if message.tool_calls or wanted is None or wanted.json_schema is None:
        return True
    return schema.checked(wanted.json_schema.schema).is_valid(message.content or "")


def _is_call_of(tools: dict[str, Tool], call: ToolCall) -> bool:
    tool = tools.get(call.function.name)
    if tool is None:
        return False
    return schema.checked(tool.function.parameters or {"type": "object"}).is_valid(call.function.arguments)
