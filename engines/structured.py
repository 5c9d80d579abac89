"""Structured output from a model that cannot be constrained: its caption fills the schema, where that is honest. Pure.

A schema can be filled when one of its string properties can carry the caption and nothing else has to be made up:
every other property may be left out, may be null, or says itself what it is (`default`, `const`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.wire import Fault, JsonObject

CARRIERS: Final = ("alt_text", "caption", "description", "text", "title")
MAX_DEPTH: Final = 32
MAX_NODES: Final = 5000
MAX_REFS: Final = 16
MAX_NAMED: Final = 8

KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
UNFILLABLE_ROOT: Final = (
    *("allOf", "oneOf", "not", "if", "const", "enum", "minProperties", "maxProperties"),
    *("propertyNames", "patternProperties", "dependencies", "dependentRequired", "dependentSchemas", "anyOf"),
)
UNFILLABLE_STRING: Final = ("allOf", "oneOf", "not", "if", "const", "enum", "pattern", "format")
REMEDY: Final = (
    "This model writes one caption and fills it into one string property; every other property must be optional, "
    "nullable or have a default. Use a schema with a single string property, for example 'alt_text', or a model that "
    "follows schemas."
)


@dataclass(frozen=True)
class Filling:
    """How a caption becomes an answer: the property that carries it, and what the others are set to.

    `properties` has every property of the answer in the schema's order; the carrier's value is a place-holder.
    """

    carrier: str
    max_length: int | None = None
    properties: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def fill(self, caption: str) -> str:
        """The answer as compact JSON; a caption that is too long ends at a word."""
        value = caption if self.max_length is None else shorten(caption, self.max_length)
        return msgspec.json.encode({**self.properties, self.carrier: value}).decode()


CAPTION_OBJECT: Final = Filling("caption", properties={"caption": ""})


def shorten(text: str, length: int) -> str:
    """The text in at most `length` code points, whole words only; a first word that is longer is cut."""
    if len(text) <= length:
        return text
    cut = text[:length]
    in_a_word = not (text[length].isspace() or cut[-1].isspace())
    if in_a_word and len(cut.split()) > 1:
        cut = cut.rsplit(maxsplit=1)[0]
    return cut.rstrip(" ,;:")


def plan(schema: JsonObject) -> Filling:
    """How a caption can fill the schema.

    Raises:
        Fault: it cannot, or the schema is out of bounds; the message says why and what would work.
    """
    _ensure_bounds(schema)
    root = _object_of(schema)
    required = root.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _fault("its 'required' must be a list of names")
    properties = {name: _property(node, schema, name in required) for name, node in root["properties"].items()}
    if missing := [name for name in required if name not in properties]:
        raise _fault(f"the required property '{missing[0][:60]}' is not among its properties")
    carrier = _carrier(properties)
    filled = {
        name: "" if name == carrier else _value(name, given)
        for name, given in properties.items()
        if name == carrier or given.required
    }
    return Filling(carrier, _max_length(carrier, properties[carrier].schema), filled)


@dataclass(frozen=True)
class _Property:
    """A property with its references followed and "or null" taken out of its schema."""

    schema: JsonObject
    required: bool
    nullable: bool

    @property
    def is_free_string(self) -> bool:
        """Its value is text that nothing in the schema settles."""
        return _is_type(self.schema, "string") and not _first(self.schema, ("const", "enum"))

    @property
    def needs_words(self) -> bool:
        """It has to be there, and only the caption can tell what it says."""
        return self.is_free_string and self.required and not self.nullable and "default" not in self.schema


def _property(node: Any, root: JsonObject, required: bool) -> _Property:
    schema, nullable = _without_null(_resolved(node, root), root)
    return _Property(schema, required, nullable)


def _carrier(properties: Mapping[str, _Property]) -> str:
    strings = [name for name, given in properties.items() if given.needs_words]
    strings = strings or [name for name, given in properties.items() if given.is_free_string]
    named = [name for name in CARRIERS if name in strings]
    if not strings:
        raise _fault("none of its properties is a string that could carry the caption")
    if len(strings) > 1 and not named:
        raise _fault(
            f"several of its properties are strings ({_listed(strings)}), none of them called {_listed(CARRIERS)}"
        )
    return strings[0] if len(strings) == 1 else named[0]


def _value(name: str, given: _Property) -> Any:
    """What a required property says by itself."""
    for keyword in ("const", "default"):
        if keyword in given.schema:
            if not _fits(given.schema[keyword], given):
                raise _fault(f"the '{keyword}' of the property '{name[:60]}' is not of its type")
            return given.schema[keyword]
    if given.nullable:
        return None
    raise _fault(f"the required property '{name[:60]}' would have to be made up")


def _fits(value: Any, given: _Property) -> bool:
    """Whether a value is of the type that its own schema asks for."""
    kind = given.schema.get("type")
    if (value is None and given.nullable) or not isinstance(kind, str) or kind not in KINDS:
        return True
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _max_length(name: str, schema: JsonObject) -> int | None:
    """The carrier's limit, after checking that any caption can be made to fit."""
    if blocked := _first(schema, UNFILLABLE_STRING):
        raise _fault(f"'{blocked}' of the property '{name[:60]}' cannot be kept to")
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if not isinstance(least, int) or least > 1:
        raise _fault(f"'minLength' of the property '{name[:60]}' cannot be kept to; at most 1 can")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise _fault(f"'maxLength' of the property '{name[:60]}' must be an integer above 0")
    return most


def _is_type(schema: JsonObject, kind: str) -> bool:
    return schema.get("type") in (kind, [kind])


def _first(schema: JsonObject, keywords: Iterable[str]) -> str | None:
    return next((keyword for keyword in keywords if keyword in schema), None)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name[:60]}'" for name in names[:MAX_NAMED])


def _fault(reason: str) -> Fault:
    message = f"Invalid schema for response_format: {reason}. {REMEDY}"
    return Fault(message, param="response_format", code="invalid_json_schema")


def _ensure_bounds(schema: JsonObject) -> None:
    level: list[Any] = [schema]
    nodes = 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            raise _fault(f"it has more than {MAX_NODES} values")
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise _fault(f"it is nested deeper than {MAX_DEPTH} levels")


def _children(node: Any) -> list[Any]:
    match node:
        case dict():
            return list(node.values())
        case list():
            return node
    return []


# --- reading a schema -----------------------------------------------------------------------------------------------


def _resolved(node: Any, root: JsonObject) -> JsonObject:
    """The node with local references followed; what stands beside a `$ref` wins over what it points to."""
    for _ in range(MAX_REFS):
        match node:
            case {"$ref": str(ref)}:
                beside = {key: value for key, value in node.items() if key != "$ref"}
                node = {**_target(ref, root), **beside}
            case {"allOf": [only]}:  # how some tools put a title beside a reference
                beside = {key: value for key, value in node.items() if key != "allOf"}
                node = {**_resolved(only, root), **beside}
            case dict():
                return node
            case True:
                return {}
            case _:
                raise _fault("a property of it is no schema")
    raise _fault("its references lead in a circle")


def _target(ref: str, root: JsonObject) -> JsonObject:
    node: Any = root
    if not ref.startswith("#"):
        raise _fault(f"the reference '{ref[:60]}' leads outside of it")
    for step in ref.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise _fault(f"the reference '{ref[:60]}' leads nowhere")
    return node


def _object_of(root: JsonObject) -> JsonObject:
    resolved = _resolved(root, root)
    if "anyOf" in resolved and "properties" in resolved:
        raise _fault("its root uses 'anyOf' beside 'properties'")
    found, _ = _without_null(resolved, root)
    if not _is_type(found, "object") or not isinstance(found.get("properties"), dict) or not found["properties"]:
        raise _fault("its root must be an object with properties")
    if blocked := _first(found, UNFILLABLE_ROOT):
        raise _fault(f"its root uses '{blocked}'")
    return found


def _without_null(node: JsonObject, root: JsonObject) -> tuple[JsonObject, bool]:
    """The one schema that a value which is not null must fit, and whether null fits as well."""
    kinds = node.get("type")
    if isinstance(kinds, list) and "null" in kinds:
        rest = [kind for kind in kinds if kind != "null"]
        return {**node, "type": rest[0] if len(rest) == 1 else rest}, True
    options = node.get("anyOf")
    if not isinstance(options, list):
        return node, kinds == "null"
    resolved = [_resolved(option, root) for option in options]
    others = [option for option in resolved if option.get("type") != "null"]
    beside = {key: value for key, value in node.items() if key != "anyOf"}
    nullable = len(others) < len(resolved)
    return ({**others[0], **beside}, nullable) if len(others) == 1 else ({**beside, "anyOf": others}, nullable)
