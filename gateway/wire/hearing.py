"""Hearing what engines really send: many servers speak chat completions, few of them to the letter.

What is absent or null gets a plain value, what is unknown is ignored, and what is no answer at all is a
`msgspec.ValidationError`.
"""

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.wire.answers import (
    AssistantMessage,
    Byte,
    ChatCompletion,
    Choice,
    Chunk,
    ChunkChoice,
    CompletionTokensDetails,
    Delta,
    FinishReason,
    Logprobs,
    PromptTokensDetails,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from gateway.wire.tools import CalledFunction, FunctionDelta, JsonObject, ToolCall, ToolCallDelta

REASONS: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "repetition"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "safety", "recitation", "refusal"), "content_filter"),
}
BROKEN_OFF = {"abort", "aborted", "cancelled", "error"}
MOST_TOKENS = 10**7  # of one answer; no model reads as many
Tokens = object  # of a count, which may be anything: it is no part of the answer
Index = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]  # of a choice or a call

T = TypeVar("T")
Otherwise = TypeVar("Otherwise")


def decode_completion(body: bytes) -> ChatCompletion:
    """A whole answer. One that does not say what it cost is counted as zero tokens.

    Raises:
        msgspec.DecodeError: it is no answer, or one that the engine broke off.
    """
    heard = _decode_answer(body)
    if heard.error is not None or not heard.choices:
        raise msgspec.ValidationError("no choices")
    return ChatCompletion(
        id=heard.id or "",
        created=int(heard.created or 0),
        model=heard.model or "",
        choices=[_choice(choice, at) for at, choice in enumerate(heard.choices)],
        usage=_usage(heard.usage) if heard.usage is not None else Usage(0, 0, 0),
    )


def decode_chunk(data: bytes) -> Chunk:
    """One event of a stream.

    Raises:
        msgspec.DecodeError: it is no chunk, or says that the engine broke off.
    """
    heard = _decode_answer(data)
    if heard.error is not None or (heard.choices is UNSET and heard.usage is None):
        raise msgspec.ValidationError("no choices")
    return Chunk(
        id=heard.id or "",
        created=int(heard.created or 0),
        model=heard.model or "",
        choices=[_chunk_choice(choice, at) for at, choice in enumerate(heard.choices or [])],
        usage=_usage(heard.usage) if heard.usage is not None else UNSET,
    )


class _TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[Byte] | None = None
    top_logprobs: list[TopLogprob] | None = None


class _Logprobs(Struct, frozen=True):
    content: list[_TokenLogprob] | None = None
    refusal: list[_TokenLogprob] | None = None


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: str | JsonObject | None = None


class _Call(Struct, frozen=True):
    id: str | None = None
    index: Index | None = None
    function: _Function | None = None


class _Message(Struct, frozen=True):
    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct, frozen=True):
    index: Index | None = None
    message: _Message | None = None
    delta: _Message | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _PromptDetails(Struct, frozen=True):
    """`multimodal_tokens` is vLLM's name for what pictures cost."""

    cached_tokens: Tokens = None
    audio_tokens: Tokens = None
    image_tokens: Tokens = None
    multimodal_tokens: dict[str, Tokens] | None = None


class _CompletionDetails(Struct, frozen=True):
    reasoning_tokens: Tokens = None
    audio_tokens: Tokens = None
    accepted_prediction_tokens: Tokens = None
    rejected_prediction_tokens: Tokens = None


class _Usage(Struct, frozen=True):
    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None
    total_tokens: Tokens = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Answer(Struct, frozen=True):
    id: str | None = None
    created: float | None = None
    model: str | None = None
    choices: list[_Choice] | UnsetType | None = UNSET
    usage: _Usage | None = None
    error: object = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def _choice(heard: _Choice, at: int) -> Choice:
    message = heard.message or _Message()
    calls = [_call(call, place) for place, call in enumerate(message.tool_calls or [])]
    speechless = not message.content and (calls or message.refusal is not None)
    return Choice(
        index=_or(heard.index, at),
        message=AssistantMessage(
            content=None if speechless else message.content or "",
            refusal=message.refusal,
            tool_calls=calls or UNSET,
        ),
        logprobs=_logprobs(heard.logprobs),
        finish_reason=_reason(heard.finish_reason) or ("tool_calls" if calls else "stop"),
    )


def _chunk_choice(heard: _Choice, at: int) -> ChunkChoice:
    delta = heard.delta or _Message()
    calls = [_call_delta(call, place) for place, call in enumerate(delta.tool_calls or [])]
    return ChunkChoice(
        index=_or(heard.index, at),
        delta=Delta(
            role="assistant" if delta.role else UNSET,
            content=_or(delta.content, UNSET),
            refusal=_or(delta.refusal, UNSET),
            tool_calls=calls or UNSET,
        ),
        logprobs=_logprobs(heard.logprobs),
        finish_reason=_reason(heard.finish_reason),
    )


def _reason(word: str | None) -> FinishReason | None:
    """OpenAI's word for why an answer ended. What nobody knows is told as "length": not known to be complete."""
    if not word:
        return None
    if word.lower() in BROKEN_OFF:
        raise msgspec.ValidationError("broken off")
    return REASONS.get(word.lower(), "length")


def _call(heard: _Call, at: int) -> ToolCall:
    function = heard.function or _Function()
    return ToolCall(heard.id or f"call_{at}", CalledFunction(function.name or "", _arguments(function) or "{}"))


def _call_delta(heard: _Call, at: int) -> ToolCallDelta:
    """A call's first piece has its name, and only that one an id."""
    index, function = _or(heard.index, at), heard.function or _Function()
    kind: Literal["function"] | UnsetType = "function" if function.name else UNSET
    return ToolCallDelta(
        index=index,
        id=heard.id or (f"call_{index}" if function.name else UNSET),
        type=kind,
        function=FunctionDelta(function.name or UNSET, _or(_arguments(function), UNSET)),
    )


def _arguments(function: _Function) -> str | None:
    given = function.arguments
    return msgspec.json.encode(given).decode() if isinstance(given, dict) else given


def _logprobs(heard: _Logprobs | None) -> Logprobs | None:
    return Logprobs(_tokens(heard.content), _tokens(heard.refusal)) if heard is not None else None


def _tokens(heard: list[_TokenLogprob] | None) -> list[TokenLogprob] | None:
    if heard is None:
        return None
    return [TokenLogprob(token.token, token.logprob, token.bytes, token.top_logprobs or []) for token in heard]


def _usage(heard: _Usage) -> Usage:
    prompt, completion = _amount(heard.prompt_tokens), _amount(heard.completion_tokens)
    return Usage(
        prompt,
        completion,
        _amount(_or(heard.total_tokens, prompt + completion)),
        _prompt_details(heard.prompt_tokens_details) if heard.prompt_tokens_details else None,
        _completion_details(heard.completion_tokens_details) if heard.completion_tokens_details else None,
    )


def _prompt_details(heard: _PromptDetails) -> PromptTokensDetails:
    by_kind = heard.multimodal_tokens or {}
    return PromptTokensDetails(
        cached_tokens=_amount(heard.cached_tokens),
        audio_tokens=_amount(heard.audio_tokens or by_kind.get("audio")),
        image_tokens=_amount(heard.image_tokens or by_kind.get("image")),
    )


def _completion_details(heard: _CompletionDetails) -> CompletionTokensDetails:
    counts = {name: _amount(getattr(heard, name)) for name in CompletionTokensDetails.__struct_fields__}
    return CompletionTokensDetails(**counts)


def _amount(tokens: Tokens) -> int:
    """What cannot be a number of tokens is none: it would be added up, and paid for."""
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens <= MOST_TOKENS else 0


def _or(value: T | None, otherwise: Otherwise) -> T | Otherwise:
    return otherwise if value is None else value
