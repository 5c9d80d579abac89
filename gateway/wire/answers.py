"""What is answered: completions whole and in chunks, the list of models, errors; and how they become bytes."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from gateway.wire.tools import JsonObject, ToolCall, ToolCallDelta

Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class PromptTokensDetails(Struct, frozen=True):
    """What the prompt's tokens were spent on."""

    cached_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0


class CompletionTokensDetails(Struct, frozen=True):
    """What the answer's tokens were spent on."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct, frozen=True):
    """Tokens counted by the engine, a picture's in `prompt_tokens_details.image_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class TopLogprob(Struct, frozen=True):
    """A token that might have stood at a place, and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[Byte] | None = None


class TokenLogprob(Struct, frozen=True):
    """A token of the answer, the logarithm of its probability, and the likeliest tokens at its place."""

    token: str
    logprob: float
    bytes: list[Byte] | None = None
    top_logprobs: list[TopLogprob] = msgspec.field(default_factory=list[TopLogprob])


class Logprobs(Struct, frozen=True):
    """How likely each token of the words, or of the refusal, was."""

    content: list[TokenLogprob] | None = None
    refusal: list[TokenLogprob] | None = None


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """The words of an answer, or the tools that it calls; `content` is None only beside calls or a refusal."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    annotations: list[JsonObject] = msgspec.field(default_factory=list[JsonObject])
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Choice(Struct, frozen=True, kw_only=True):
    """One of the answers asked for with `n`."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """A whole answer; `created` is in seconds since 1970."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    service_tier: str | None = "default"
    system_fingerprint: str | None = None


class Delta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a chunk adds to the message. Fields left out stand as they were."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class Chunk(Struct, frozen=True, kw_only=True):
    """One event of a streamed answer. `usage` is absent unless the client asked for it."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    service_tier: str | None = "default"
    system_fingerprint: str | None = None


class ErrorBody(Struct, frozen=True, kw_only=True):
    """What went wrong: `param` is the JSON path of the field at fault."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(Struct, frozen=True):
    """The one form in which errors leave."""

    error: ErrorBody


class ModelEntry(Struct, frozen=True, kw_only=True):
    """A model in the list; from `engine` on the fields are Altgate's own. `progress` is a fraction of 1.

    `max_model_len` is absent where only the engine knows it.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "altgate"
    max_model_len: int | UnsetType = UNSET
    modalities: list[str] = msgspec.field(default_factory=lambda: ["text", "image"])
    engine: str
    status: str
    phase: str | None = None
    progress: float | None = None
    device: str | None = None
    reason: str | None = None
    licence: str = "unknown"
    description: str = ""
    aliases: list[str] = msgspec.field(default_factory=list[str])
    preset: str | None = None


class ModelList(Struct, frozen=True, kw_only=True):
    """Every model that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class Standing(Struct, frozen=True, kw_only=True):
    """How the gateway is."""

    status: Literal["ok", "ready"]


class Greeting(Struct, frozen=True, kw_only=True):
    """What stands at the root."""

    name: Literal["altgate"] = "altgate"
    version: str
    message: str = "Altgate is running. Point an OpenAI client at /v1, or GET /v1/models."


encode = msgspec.json.encode
decode_error = msgspec.json.Decoder(ErrorEnvelope).decode

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still working\n\n"


def event(value: Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"
