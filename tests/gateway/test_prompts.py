"""The presets."""

import msgspec
import pytest

from gateway import prompts, wire
from gateway.wire import ChatRequest, ImageURL, Message, PicturePart, TextPart

PRESETS = prompts.load()
PICTURE = PicturePart(ImageURL("data:x"))


def request(*messages: Message) -> ChatRequest:
    """A request of those messages."""
    return ChatRequest(model="demo", messages=list(messages))


def test_alt_text_promises_a_short_objective_text() -> None:
    """At most 120 characters, in the schema and in words; nothing that cannot be seen."""
    preset = PRESETS["alt_text"]

    assert preset.schema["properties"][preset.field]["maxLength"] == 120
    assert preset.schema["required"] == [preset.field]
    assert "120 characters" in preset.instruction
    assert "only what can be seen" in preset.instruction


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_field_in_its_schema(name: str) -> None:
    """The property that holds the words is there, required, and a bounded string."""
    preset = PRESETS[name]

    assert preset.field in preset.schema["required"]
    assert preset.schema["properties"][preset.field]["type"] == "string"
    assert preset.schema["properties"][preset.field]["maxLength"] > 0


def test_the_instruction_stands_at_the_end_of_the_last_user_message() -> None:
    """Every picture keeps its place, so that an error's path is still the client's."""
    preset = PRESETS["alt_text"]
    asked = request(
        Message("system", [TextPart("Be brief.")]),
        Message("user", [PICTURE, TextPart("What is it?")]),
        Message("assistant", [TextPart("a")]),
    )

    filled = preset.fill(asked)

    assert filled.messages[1].content == [PICTURE, TextPart("What is it?"), TextPart(preset.instruction)]
    assert wire.pictures_of(filled) == wire.pictures_of(asked)
    assert [filled.messages[0], filled.messages[2]] == [asked.messages[0], asked.messages[2]]


def test_without_a_user_message_the_instruction_is_one() -> None:
    """A request of system messages alone still gets asked something."""
    filled = PRESETS["caption"].fill(request(Message("system", [PICTURE])))

    assert filled.messages[-1] == Message("user", [TextPart(PRESETS["caption"].instruction)])


def test_digests_tell_presets_apart() -> None:
    """The digest is part of the cache key: a changed prompt is another answer."""
    assert len({preset.digest for preset in PRESETS.values()}) == len(PRESETS)
    assert msgspec.json.encode([preset.schema for preset in PRESETS.values()])
