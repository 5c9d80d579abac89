"""What is asked: requests in closed types, as they are inside the gateway and on the way to an engine."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from gateway.wire.tools import MAX_TOOLS, JsonObject, Tool, ToolCall, ToolChoice

MAX_MESSAGES = 1000
MAX_PARTS = 1000  # in one message
MAX_CHOICES = 8
MAX_STOPS = 4
MAX_STOP_LENGTH = 1000
MAX_LOGIT_BIASES = 300

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    """Words in a message."""

    text: str


class ImageURL(Struct, frozen=True, omit_defaults=True):
    """Where a picture is: a data URL, an http(s) URL or bare base64."""

    url: str
    detail: str | None = None


class PicturePart(Struct, frozen=True, tag_field="type", tag="image_url", omit_defaults=True):
    """A picture in a message. `uuid` is what an engine may remember it by; ours to set, never read from a client."""

    image_url: ImageURL
    uuid: str | None = None


Part = TextPart | PicturePart


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn of the conversation, its content always a list of parts.

    `tool_calls` are the assistant's; a tool's message names by `tool_call_id` the call that it is the result of.
    """

    role: Role
    content: list[Part] = field(default_factory=list)
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(Struct, frozen=True, omit_defaults=True):
    """What a stream carries besides its words."""

    include_usage: bool | None = None


class JsonSchema(Struct, frozen=True, omit_defaults=True):
    """The schema that a structured answer keeps to."""

    name: str
    schema: JsonObject
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, frozen=True, omit_defaults=True):
    """The form of the answer; `json_schema` is set exactly when `type` says so."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class AltgateOptions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Altgate's own request field, `altgate`.

    `task` names a preset of `prompts/`. `prefix` is how the caption shall begin, for models that continue a text.
    `form` is one of those in which the model can be asked, where there are several.
    """

    task: str | None = None
    prefix: str | None = None
    form: str | None = None


class TemplateArguments(Struct, frozen=True, omit_defaults=True):
    """What a chat template is told beside the messages; ours to set, never read from a client."""

    form: str


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
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
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
    """A request for a chat completion, in closed types.

    `chat_template_kwargs` and `cache_salt`, which keeps what an engine remembers of a request from others', are ours to
    set and never read from a client.
    """

    messages: list[Message]
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateArguments | None = None
    cache_salt: str | None = None


def texts_of(request: ChatRequest) -> str:
    """All that is written in the request's messages, a line each."""
    parts = (part for message in request.messages for part in message.content)
    return "\n".join(part.text for part in parts if isinstance(part, TextPart))


def pictures_of(request: ChatRequest) -> list[tuple[str, PicturePart]]:
    """Every picture of the request in order, each with its JSON path."""
    return [
        (f"messages[{turn}].content[{place}].image_url.url", part)
        for turn, message in enumerate(request.messages)
        for place, part in enumerate(message.content)
        if isinstance(part, PicturePart)
    ]
