"""Reading what clients really send: the many forms of a picture, a message or a schema become closed types.

Sources: OpenAI's API reference, and the requests of its SDKs and of some dozen other clients.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from gateway.wire import lifting
from gateway.wire.requests import (
    MAX_MESSAGES,
    MAX_PARTS,
    ChatRequest,
    ImageURL,
    JsonSchema,
    Message,
    Options,
    Part,
    PicturePart,
    ResponseFormat,
    Role,
    TextPart,
)
from gateway.wire.tools import JsonObject, NamedTool, Tool, ToolCall

MAX_NESTING = 64  # levels in a tool's parameters: what is decoded here is encoded again, deeper in the stack
MAX_WORDS = 2 * 2**20  # bytes of a body beside its pictures: each is looked at several times, on the way to an engine

T = TypeVar("T")


class Fault(ValueError):
    """A request that cannot be read. `param` is the JSON path of what is wrong, or None when it has no place."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


def read_request(body: bytes) -> tuple[ChatRequest, list[str]]:
    """Reads a request, in any form that real clients send; and its top-level fields that are not known, hence ignored.

    Raises:
        Fault: the body is no JSON, or a field of it cannot be read; `param` names the field.
    """
    brief, urls = lifting.lifted(body)
    try:
        return _read(brief, urls)
    except Fault:
        if not urls:
            raise
        return _read(body, [])  # a fault is told of what was sent


def decode_request(body: bytes) -> ChatRequest:
    """The same for who does not care what is ignored."""
    return read_request(body)[0]


def _read(body: bytes, urls: Sequence[str]) -> tuple[ChatRequest, list[str]]:
    """The request, and the fields that are not known.

    Raises:
        Fault: it cannot be read, or not all of the lifted URLs stand where a picture belongs.
    """
    (incoming, unknown), lifted = _decode_incoming(body), _Lifted(urls)
    if len(body) > MAX_WORDS:
        _ensure_brief(incoming, len(body))
    messages = [_message(message, f"messages[{at}]", lifted) for at, message in enumerate(incoming.messages)]
    lifted.ensure_all_restored()
    fields = {name: getattr(incoming, name) for name in _OPTIONS} | _tool_fields(incoming)
    request = ChatRequest(messages=messages, response_format=_response_format(incoming.response_format), **fields)
    return request, unknown


class _Lifted:
    """The URLs that were lifted out of the body, on their way back."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._missing = {lifting.stub(number): url for number, url in enumerate(urls)}

    def restored(self, url: str) -> str:
        """The URL for which that one stands."""
        return self._missing.pop(url, url) if self._missing else url

    def ensure_all_restored(self) -> None:
        """Raises a Fault where one stands in another place than a picture's."""
        if self._missing:
            raise Fault("A picture's data stands where no picture belongs.")


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
    content: str | Annotated[list[_IncomingPart], Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class _IncomingFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonObject | None = None


class _IncomingRequest(Options, frozen=True, kw_only=True):
    messages: Annotated[list[_IncomingMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    response_format: _IncomingFormat | None = None


class _KnownRequest(_IncomingRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, when no field of it is unknown."""


_KNOWN_FIELDS = frozenset(_IncomingRequest.__struct_fields__)
_OPTIONS = Options.__struct_fields__
_decode_body = msgspec.json.Decoder(_IncomingRequest).decode
_decode_known = msgspec.json.Decoder(_KnownRequest).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _decode_incoming(body: bytes) -> tuple[_IncomingRequest, list[str]]:
    """The request, and its fields that are not known, which most do not have: then it need not be read twice."""
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _decode_known(body), []
    try:
        return _decode_body(body), sorted(_decode_keys(body).keys() - _KNOWN_FIELDS)
    except msgspec.ValidationError as error:
        raise _validation_fault(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Fault(
            "We could not parse the JSON body of your request. Send one JSON object, UTF-8, without a byte order mark."
        ) from None


def _ensure_brief(incoming: _IncomingRequest, size: int) -> None:
    """Refuses a body that is large for another reason than its pictures."""
    parts = (part for message in incoming.messages if isinstance(message.content, list) for part in message.content)
    pictures = sum(map(_picture_size, parts))
    # Some clients escape the slashes of base64, one character in 64.
    if size - pictures - pictures // 32 > MAX_WORDS:
        raise Fault(
            f"The request is larger than {MAX_WORDS // 2**20} MiB without its pictures. Shorten its texts and schemas.",
            code="string_above_max_length",
        )


def _picture_size(part: _IncomingPart) -> int:
    picture = part.image_url
    source, file = part.source, part.file
    written = (
        picture.url if isinstance(picture, ImageURL) else picture,
        source and source.data,
        file and file.file_data,
    )
    return sum(len(each) for each in written if each)


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


def _message(message: _IncomingMessage, path: str, lifted: _Lifted) -> Message:
    match message.content:
        case None:
            parts: Sequence[Part] = ()
        case str(text):
            parts = (TextPart(text),)
        case incoming:
            parts = [_part(part, f"{path}.content[{at}]", lifted) for at, part in enumerate(incoming)]
    for at, call in enumerate(message.tool_calls or ()):
        _ensure_flat_text(call.function.arguments, f"{path}.tool_calls[{at}].function.arguments")
    return Message(
        role=message.role,
        content=list(parts),
        name=message.name,
        tool_calls=(message.tool_calls or None) if message.role == "assistant" else None,
        tool_call_id=message.tool_call_id if message.role == "tool" else None,
    )


def _part(part: _IncomingPart, path: str, lifted: _Lifted) -> Part:
    match part.type:
        case "text" | "input_text" | "output_text":
            return TextPart(_required(part.text, f"{path}.text"))
        case "image_url" | "input_image":
            return _picture(part.image_url, f"{path}.image_url", lifted)
        case "image":
            source = _required(part.source, f"{path}.source")
            return _picture(source.data or source.url, f"{path}.source.data", lifted)
        case "file":
            return _picture(_required(part.file, f"{path}.file").file_data, f"{path}.file.file_data", lifted)
        case None if part.image_url is not None:
            return _picture(part.image_url, f"{path}.image_url", lifted)
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


def _picture(value: ImageURL | str | None, path: str, lifted: _Lifted) -> PicturePart:
    given = ImageURL(value) if isinstance(value, str) else _required(value, path)
    return PicturePart(ImageURL(lifted.restored(given.url), given.detail))


def _required(value: T | None, path: str) -> T:
    if value is None:
        raise Fault(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
    return value


_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _tool_fields(incoming: _IncomingRequest) -> dict[str, Any]:
    """The tools and whatever is said of them. Without tools nothing is: some clients always send a choice."""
    if not incoming.tools:
        return {"tools": None, "tool_choice": None, "parallel_tool_calls": None}
    for at, tool in enumerate(incoming.tools):
        _ensure_usable(tool, f"tools[{at}].function")
    choice = incoming.tool_choice
    if isinstance(choice, NamedTool) and all(tool.function.name != choice.function.name for tool in incoming.tools):
        raise Fault(
            f"Invalid value for 'tool_choice': none of 'tools' is called {choice.function.name[:64]!r}.",
            param="tool_choice",
            code="invalid_value",
        )
    return {}


def _ensure_usable(tool: Tool, path: str) -> None:
    if not _TOOL_NAME.fullmatch(tool.function.name):
        raise Fault(
            f"Invalid value for '{path}.name': a name has 1 to 64 letters (a-z, A-Z), digits, '_' and '-'.",
            param=f"{path}.name",
            code="invalid_value",
        )
    parameters = tool.function.parameters
    if parameters is not None and parameters.get("type", "object") != "object":
        raise Fault(
            f"Invalid value for '{path}.parameters': a function takes an object. Give it the type 'object'.",
            param=f"{path}.parameters",
            code="invalid_value",
        )
    _ensure_flat(parameters, f"{path}.parameters")


def _ensure_flat(value: object, path: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise _too_deep(path)


def _ensure_flat_text(text: str, path: str) -> None:
    """Arguments are text, which models get wrong; but what reads them as JSON must not be led astray."""
    try:
        _ensure_flat(msgspec.json.decode(text), path)
    except RecursionError:
        raise _too_deep(path) from None
    except msgspec.DecodeError:
        return


def _too_deep(path: str) -> Fault:
    sentence = f"Invalid value for '{path}': it is nested deeper than {MAX_NESTING} levels. Make it flatter."
    return Fault(sentence, param=path, code="invalid_value")


def _children(node: object) -> Iterable[Any]:
    match node:
        case dict():
            return node.values()
        case list():
            return node
    return ()


def _response_format(incoming: _IncomingFormat | None) -> ResponseFormat | None:
    if incoming is None or incoming.type == "text":
        return None
    if incoming.type == "json_object":
        return ResponseFormat("json_object")
    wrapper = _required(incoming.json_schema, "response_format.json_schema")
    is_bare = "schema" not in wrapper and not {"type", "properties", "$ref", "anyOf"}.isdisjoint(wrapper)
    schema = wrapper if is_bare else wrapper.get("schema")
    if not isinstance(schema, dict):
        raise Fault(
            "Missing required parameter: 'response_format.json_schema.schema'.",
            param="response_format.json_schema.schema",
            code="missing_required_parameter",
        )
    about: JsonObject = wrapper if schema is not wrapper else {}
    name, description, strict = (about.get(key) for key in ("name", "description", "strict"))
    return ResponseFormat(
        "json_schema",
        JsonSchema(
            name if isinstance(name, str) else "response",
            {key: value for key, value in schema.items() if key != "$schema"},
            strict if isinstance(strict, bool) else None,
            description if isinstance(description, str) else None,
        ),
    )
