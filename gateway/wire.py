"""OpenAI's chat-completions wire, as Altgate reads and writes it; imports msgspec and nothing else.

What a client sends is decoded once, by `decode_request`, into closed types: the many forms in which real clients write
a picture or a message become `TextPart` and `PicturePart`, and whatever cannot be read is a `Fault` that names the
parameter. The gateway sends these same types on to its engines, so both ends of an engine's socket share this file.

Source: OpenAI's API reference for chat completions, and what its SDKs send and accept.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_STOP_LENGTH = 1000
MAX_LOGIT_BIASES = 300

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
JsonObject = dict[str, Any]
T = TypeVar("T")


class Fault(ValueError):
    """A request that cannot be read. `param` is the JSON path of what is wrong, or None when it has no place."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


# --- requests -------------------------------------------------------------------------------------------------------


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    """Words in a message."""

    text: str


class ImageURL(Struct, frozen=True, omit_defaults=True):
    """Where a picture is: a data URL, an http(s) URL or bare base64."""

    url: str
    detail: str | None = None


class PicturePart(Struct, frozen=True, tag_field="type", tag="image_url"):
    """A picture in a message."""

    image_url: ImageURL


Part = TextPart | PicturePart


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn of the conversation, its content always a list of parts."""

    role: Role
    content: list[Part]
    name: str | None = None


class StreamOptions(Struct, frozen=True, omit_defaults=True):
    """What a stream carries besides its words."""

    include_usage: bool | None = None


class JsonSchema(Struct, frozen=True):
    """The schema that a structured answer keeps to."""

    name: str
    schema: JsonObject
    strict: bool = True


class ResponseFormat(Struct, frozen=True, omit_defaults=True):
    """The form of the answer; `json_schema` is set exactly when `type` says so."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class AltgateOptions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Altgate's own request field, `altgate`.

    `task` names a preset of `prompts/`. `prefix` is how the caption shall begin, for models that continue a text.
    """

    task: str | None = None
    prefix: str | None = None


class Options(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every field of a request but its messages; None means that the client left the choice to us."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: (
        Annotated[str, Meta(max_length=MAX_STOP_LENGTH)]
        | Annotated[list[Annotated[str, Meta(max_length=MAX_STOP_LENGTH)]], Meta(max_length=MAX_STOPS)]
        | None
    ) = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=MAX_LOGIT_BIASES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    altgate: AltgateOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The stop sequences, none of them empty."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    @property
    def token_limit(self) -> int | None:
        """How many tokens the answer may have. Zero and less are n8n's way to say "your default"."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return limit if limit is not None and limit > 0 else None


class ChatRequest(Options, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a chat completion, in closed types."""

    messages: list[Message]
    response_format: ResponseFormat | None = None


# --- answers --------------------------------------------------------------------------------------------------------


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


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """The words of an answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    annotations: list[JsonObject] = msgspec.field(default_factory=list[JsonObject])


class Choice(Struct, frozen=True, kw_only=True):
    """One of the answers asked for with `n`."""

    index: int
    message: AssistantMessage
    logprobs: JsonObject | None = None
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


class ChunkChoice(Struct, frozen=True, kw_only=True):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: JsonObject | None = None
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
    """A model in the list; from `engine` on the fields are Altgate's own. `progress` is a fraction of 1."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "altgate"
    max_model_len: int
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


# --- codecs ---------------------------------------------------------------------------------------------------------

encode = msgspec.json.encode
decode_completion = msgspec.json.Decoder(ChatCompletion).decode
decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_error = msgspec.json.Decoder(ErrorEnvelope).decode

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still working\n\n"


def event(value: Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def decode_request(body: bytes) -> ChatRequest:
    """Reads a request, in any form that real clients send.

    Raises:
        Fault: the body is no JSON, or a field of it cannot be read; `param` names the field.
    """
    incoming = _decode_incoming(body)
    messages = [_message(message, f"messages[{at}]") for at, message in enumerate(incoming.messages)]
    fields = {name: getattr(incoming, name) for name in Options.__struct_fields__}
    return ChatRequest(messages=messages, response_format=_response_format(incoming.response_format), **fields)


def unknown_fields(body: bytes) -> list[str]:
    """The request's top-level fields that Altgate does not know, hence ignores."""
    return sorted(set(_decode_keys(body)) - set(ChatRequest.__struct_fields__))


def pictures_of(request: ChatRequest) -> list[tuple[str, PicturePart]]:
    """Every picture of the request in order, each with its JSON path."""
    return [
        (f"messages[{turn}].content[{place}].image_url.url", part)
        for turn, message in enumerate(request.messages)
        for place, part in enumerate(message.content)
        if isinstance(part, PicturePart)
    ]


# --- what clients send instead of what the reference says -----------------------------------------------------------


class _Source(Struct, frozen=True):
    data: str | None = None
    url: str | None = None


class _File(Struct, frozen=True):
    file_data: str | None = None


class _IncomingPart(Struct, frozen=True):
    type: str | None = None
    text: str | None = None
    image_url: ImageURL | str | None = None
    source: _Source | None = None
    file: _File | None = None


class _IncomingMessage(Struct, frozen=True):
    role: Role
    content: str | list[_IncomingPart] | None = None
    name: str | None = None


class _IncomingFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonObject | None = None


class _IncomingRequest(Options, frozen=True, kw_only=True):
    messages: Annotated[list[_IncomingMessage], Meta(min_length=1)]
    response_format: _IncomingFormat | None = None


_decode_body = msgspec.json.Decoder(_IncomingRequest).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _decode_incoming(body: bytes) -> _IncomingRequest:
    try:
        return _decode_body(body)
    except msgspec.ValidationError as error:
        raise _validation_fault(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Fault(
            "We could not parse the JSON body of your request. Send one JSON object, UTF-8, without a byte order mark."
        ) from None


_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]+)`")
_SPOKEN = {
    "object": "an object",
    "array": "an array",
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
}
_EXPECTED = re.compile(r"^Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")


def _validation_fault(text: str) -> Fault:
    """Turns msgspec's sentence, which ends in the place, into one that names the parameter the way OpenAI does."""
    found = _AT.search(text)
    path = found["path"] if found else ""
    cause = text[: found.start()] if found else text
    if missing := _MISSING.match(cause):
        param = f"{path}.{missing['field']}".lstrip(".")
        return Fault(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if expected := _EXPECTED.match(cause):
        wanted, got = (_spoken(expected[kind]) for kind in ("wanted", "got"))
        where = f"'{path}'" if path else "the request"
        return Fault(
            f"Invalid type for {where}: expected {wanted}, but got {got} instead.",
            param=path or None,
            code="invalid_type",
        )
    where = f"'{path}'" if path else "the request"
    cause = cause[:1].lower() + cause[1:]
    return Fault(f"Invalid value for {where}: {cause}.", param=path or None, code="invalid_value")


def _spoken(kinds: str) -> str:
    known = [_SPOKEN.get(kind.strip(), kind.strip()) for kind in kinds.split("|") if kind.strip() != "null"]
    return " or ".join(known) or "null"


def _message(message: _IncomingMessage, path: str) -> Message:
    match message.content:
        case None:
            parts: Sequence[Part] = ()
        case str(text):
            parts = (TextPart(text),)
        case incoming:
            parts = [_part(part, f"{path}.content[{at}]") for at, part in enumerate(incoming)]
    return Message(role=message.role, content=list(parts), name=message.name)


def _part(part: _IncomingPart, path: str) -> Part:
    match part.type:
        case "text" | "input_text" | "output_text":
            return TextPart(_required(part.text, f"{path}.text"))
        case "image_url" | "input_image":
            return _picture(part.image_url, f"{path}.image_url")
        case "image":
            source = _required(part.source, f"{path}.source")
            return _picture(source.data or source.url, f"{path}.source.data")
        case "file":
            return _picture(_required(part.file, f"{path}.file").file_data, f"{path}.file.file_data")
        case None if part.image_url is not None:
            return _picture(part.image_url, f"{path}.image_url")
        case None if part.text is not None:
            return TextPart(part.text)
        case kind:
            raise Fault(
                f"Invalid value for '{path}.type': {_quoted(kind)}. Content parts are 'text' and 'image_url'; "
                "'input_text', 'input_image', 'image' with a 'source' and 'file' with 'file_data' are read as well.",
                param=f"{path}.type",
                code="invalid_value",
            )


def _quoted(kind: str | None) -> str:
    return "it is missing" if kind is None else repr(kind[:40])


def _picture(value: ImageURL | str | None, path: str) -> PicturePart:
    if isinstance(value, str):
        return PicturePart(ImageURL(value))
    return PicturePart(_required(value, path))


def _required(value: T | None, path: str) -> T:
    if value is None:
        raise Fault(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
    return value


def _response_format(incoming: _IncomingFormat | None) -> ResponseFormat | None:
    if incoming is None or incoming.type == "text":
        return None
    if incoming.type == "json_object":
        return ResponseFormat("json_object")
    wrapper = _required(incoming.json_schema, "response_format.json_schema")
    schema = wrapper.get("schema", None if "name" in wrapper else wrapper)
    if not isinstance(schema, dict):
        raise Fault(
            "Missing required parameter: 'response_format.json_schema.schema'.",
            param="response_format.json_schema.schema",
            code="missing_required_parameter",
        )
    name = wrapper.get("name") if schema is not wrapper else None
    plain = {key: value for key, value in schema.items() if key != "$schema"}
    return ResponseFormat("json_schema", JsonSchema(name if isinstance(name, str) else "response", plain))
