"""Control characters that stand raw in the strings of an answer's JSON, which JSON forbids, are written as it has them.

XGrammar lets them through where a string has a limit on its length. The answer means the same afterwards. Pure.
"""

import re

from msgspec import UnsetType
from msgspec.structs import replace

from gateway.catalogue import Model
from gateway.wire import ChatRequest, Choice, Chunk, ChunkChoice, ToolCall, ToolCallDelta

OWN_GRAMMAR = "structured-outputs-config"
_RAW = re.compile(r"[\x00-\x1f]")


def applies(asked: ChatRequest, model: Model) -> bool:
    """Whether whatever control character is in the answer stands in a string of JSON.

    vLLM is told to write no white space but spaces between them, unless its operator says otherwise.
    """
    forced = asked.tool_choice not in (None, "auto", "none")
    return (_in_format(asked) or forced) and model.engine == "vllm" and OWN_GRAMMAR not in model.args


def whole(choice: Choice, asked: ChatRequest) -> Choice:
    """An answer, mended. Its words stay as they are where only the arguments of calls are constrained."""
    message = choice.message
    calls = message.tool_calls
    return replace(
        choice,
        message=replace(
            message,
            content=escaped(message.content) if message.content is not None and _in_format(asked) else message.content,
            tool_calls=[_call(call) for call in calls] if calls else calls,
        ),
    )


def piece(chunk: Chunk, asked: ChatRequest) -> Chunk:
    """A piece of a stream, mended like the whole: each character for itself."""
    words = _in_format(asked)
    return replace(chunk, choices=[_choice(choice, words=words) for choice in chunk.choices])


def escaped(text: str) -> str:
    """The text without raw control characters."""
    return _RAW.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _in_format(asked: ChatRequest) -> bool:
    return asked.response_format is not None and asked.response_format.json_schema is not None


def _choice(choice: ChunkChoice, *, words: bool) -> ChunkChoice:
    delta = choice.delta
    content = escaped(delta.content) if words and isinstance(delta.content, str) else delta.content
    calls = delta.tool_calls
    return replace(
        choice,
        delta=replace(
            delta,
            content=content,
            tool_calls=calls if isinstance(calls, UnsetType) else [_call_delta(call) for call in calls],
        ),
    )


def _call(call: ToolCall) -> ToolCall:
    return replace(call, function=replace(call.function, arguments=escaped(call.function.arguments)))


def _call_delta(call: ToolCallDelta) -> ToolCallDelta:
    function = call.function
    if isinstance(function, UnsetType) or isinstance(function.arguments, UnsetType):
        return call
    return replace(call, function=replace(function, arguments=escaped(function.arguments)))
