"""The bounds of every client's schema, whichever model will get it: what is over them is refused before any work.

A schema that passed is small, well formed by the meta-schema of 2020-12, refers to nothing but itself and never in a
circle, and its checker is compiled.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs
import msgspec

from gateway.schema import pattern
from gateway.schema.checker import checked
from gateway.schema.tree import MAX_SUBSCHEMAS, PARAM, Node, Unusable, children, escaped, naming, shown, walk
from gateway.wire import JsonObject

MAX_SIZE: Final = 64 * 1024  # bytes of JSON: the bound on all names, values and texts together
MAX_NESTING: Final = 64  # levels of JSON, what a default holds included
MAX_PROPERTIES: Final = 500
MAX_ENUM_VALUES: Final = 500
MAX_PATTERN_SIZE: Final = 2000  # positions of all patterns together, repetitions written out
MAX_EXPANDED_DEPTH: Final = 64  # levels of schemas, each reference being one
MAX_COUNT: Final = 100_000
MAX_NUMBER: Final = 2**53  # beyond it a double, hence JSON, is no longer exact
NESTED: Final = f"its JSON is nested deeper than {MAX_NESTING} levels; flatten it"

COUNTS: Final = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
RANGES: Final = (
    *(("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")),
    *(("minContains", "maxContains"), ("minimum", "maximum"), ("minimum", "exclusiveMaximum")),
    *(("exclusiveMinimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")),
)
REBASING: Final = (
    *("$id", "$schema", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"),
    "$vocabulary",
)


def ensure_bounds(schema: JsonObject, *, param: str = PARAM) -> None:
    """Refuses a schema that is malformed or too large for any model.

    Args:
        schema: JSON, as the client sent it.
        param: the request's field that it came in.

    Raises:
        InvalidRequest: it is; the message says where, and what would work.
    """
    with naming(param):
        plain = {key: value for key, value in schema.items() if key not in {"$schema", "$id"}}
        _check_size(plain)
        nodes = list(walk(plain))
        _check_form(plain)
        _check_totals(nodes)
        for node in nodes:
            _check_keywords(node)
        _check_expansion(nodes)
        _check_compiles(plain)


def _check_size(schema: JsonObject) -> None:
    if _size(schema) > MAX_SIZE:
        raise Unusable(f"it is larger than {MAX_SIZE // 1024} KiB; shorten its texts or ask for less at once")
    level: list[Any] = [schema]
    for _ in range(MAX_NESTING):
        level = [child for value in level for child in _inside(value)]
    if level:
        raise Unusable(NESTED)


def _size(schema: JsonObject) -> int:
    try:
        return len(msgspec.json.encode(schema))
    except RecursionError:
        raise Unusable(NESTED) from None


def _inside(value: Any) -> Sequence[Any]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
    return ()


def _check_form(schema: JsonObject) -> None:
    try:
        jsonschema_rs.meta.validate(schema)
    except jsonschema_rs.ValidationError as error:
        pointer = "/".join(("#", *(escaped(str(step)) for step in error.instance_path)))
        raise Unusable(
            f"JSON Schema (2020-12) does not allow the value of {shown(pointer)}; correct it or leave it out"
        ) from None


def _check_totals(nodes: Sequence[Node]) -> None:
    said = [node.keywords for node in nodes]
    properties = sum(len(words.get(key, ())) for words in said for key in ("properties", "patternProperties"))
    if properties > MAX_PROPERTIES:
        raise Unusable(f"it has more than {MAX_PROPERTIES} properties; ask for less at once")
    if sum(len(words.get("enum", ())) for words in said) > MAX_ENUM_VALUES:
        raise Unusable(f"it has more than {MAX_ENUM_VALUES} enum values; list fewer, or use a plain string")
    if sum(pattern.size(text) for words in said for text in _patterns(words)) > MAX_PATTERN_SIZE:
        raise Unusable(
            f"its patterns have more than {MAX_PATTERN_SIZE} positions when their repetitions are written out; "
            "repeat less, or use 'maxLength' instead"
        )


def _patterns(keywords: JsonObject) -> Iterator[str]:
    if "pattern" in keywords:
        yield keywords["pattern"]
    yield from keywords.get("patternProperties", ())


def _check_keywords(node: Node) -> None:
    keywords = node.keywords
    if rebasing := next((key for key in REBASING if key in keywords), None):
        raise Unusable(f"{rebasing!r} at {shown(node.pointer)} is not supported; refer to '#/$defs/NAME' with '$ref'")
    for keys, most in ((COUNTS, MAX_COUNT), (NUMBERS, MAX_NUMBER)):
        for key in keys:
            if abs(keywords.get(key, 0)) > most:
                raise Unusable(f"{key!r} at {shown(node.pointer)} is beyond {most}; leave it out or keep to that")
    for low, high in RANGES:
        if low in keywords and high in keywords and _is_empty(keywords, low, high):
            raise Unusable(f"nothing fits between {low!r} and {high!r} at {shown(node.pointer)}; widen the range")


def _is_empty(keywords: JsonObject, low: str, high: str) -> bool:
    open_ended = "exclusive" in low + high
    return bool(keywords[low] >= keywords[high] if open_ended else keywords[low] > keywords[high])


def _check_expansion(nodes: Sequence[Node]) -> None:
    """Counts what a validator may have to visit: references that fan out would make a small schema endless."""
    places = {node.pointer: node for node in nodes}
    sizes: dict[str, int] = {}
    if _expanded(nodes[0], places, sizes, ()) > MAX_SUBSCHEMAS:
        raise Unusable(f"with its references followed it has more than {MAX_SUBSCHEMAS} subschemas; refer less often")


def _expanded(node: Node, places: Mapping[str, Node], sizes: dict[str, int], path: tuple[str, ...]) -> int:
    if node.pointer in path:
        raise Unusable(f"its references lead in a circle through {shown(node.pointer)}; write out the levels you need")
    if len(path) >= MAX_EXPANDED_DEPTH:
        raise Unusable(f"with its references followed it is deeper than {MAX_EXPANDED_DEPTH} levels; flatten it")
    if node.pointer not in sizes:
        below = (*children(node), *_target(node, places))
        sizes[node.pointer] = 1 + sum(_expanded(next_, places, sizes, (*path, node.pointer)) for next_ in below)
    return sizes[node.pointer]


def _target(node: Node, places: Mapping[str, Node]) -> Iterator[Node]:
    if "$ref" not in node.keywords:
        return
    reference = node.keywords["$ref"]
    if not reference.startswith("#"):
        raise Unusable(f"the '$ref' at {shown(node.pointer)} leads outside of it; put what it means under '$defs'")
    target = unquote(reference)
    if target not in places:
        raise Unusable(f"the reference {shown(reference)} leads to no schema; put what it means under '$defs'")
    yield places[target]


def _check_compiles(schema: JsonObject) -> None:
    try:
        checked(schema)
    except ValueError:
        raise Unusable("one of its patterns or references cannot be compiled; simplify its patterns") from None
