"""The presets of `prompts/`: what a model is asked, and the object that it promises in return."""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

import msgspec
from msgspec import Struct

from gateway import wire
from gateway.wire import ChatRequest, JsonSchema, Message, ResponseFormat, TextPart


class Preset(Struct, frozen=True, kw_only=True):
    """One preset. `field` is the property of the schema that holds the words, `digest` that of the whole file."""

    name: str
    field: str
    instruction: str
    schema: wire.JsonObject
    digest: str

    @property
    def response_format(self) -> ResponseFormat:
        """The schema, as a request asks for it."""
        return ResponseFormat("json_schema", JsonSchema(self.name, self.schema))

    def fill(self, request: ChatRequest) -> ChatRequest:
        """The request with the instruction at the end of its last user message.

        There, and not in a message of its own, every picture keeps its place, so that an error's `param` still names
        what the client wrote.
        """
        messages = list(request.messages)
        turns = [at for at, message in enumerate(messages) if message.role == "user"]
        part = TextPart(self.instruction)
        if turns:
            last = messages[turns[-1]]
            messages[turns[-1]] = msgspec.structs.replace(last, content=[*last.content, part])
        else:
            messages.append(Message("user", [part]))
        return msgspec.structs.replace(request, messages=messages)


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    field: str
    instruction: str
    schema: wire.JsonObject


def load() -> Mapping[str, Preset]:
    """Every preset by name, in alphabetical order."""
    found = sorted(
        (file for file in files("prompts").iterdir() if file.name.endswith(".toml")), key=lambda file: file.name
    )
    presets = [_preset(file.name.removesuffix(".toml"), file.read_bytes()) for file in found]
    return {preset.name: preset for preset in presets}


def _preset(name: str, content: bytes) -> Preset:
    file = msgspec.toml.decode(content, type=_File)
    return Preset(
        name=name,
        field=file.field,
        instruction=file.instruction.strip(),
        schema=file.schema,
        digest=hashlib.sha256(content).hexdigest(),
    )
