"""A schema as a tree of subschemas, each with its JSON pointer. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from gateway.errors import InvalidRequest
from gateway.wire import JsonObject

PARAM: Final = "response_format"
MAX_DEPTH: Final = 16  # levels of schemas below the root
MAX_SUBSCHEMAS: Final = 3000
MAX_SHOWN: Final = 120  # characters of a client's own words in a message

ONE: Final = (
    *("items", "contains", "unevaluatedItems", "additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("not", "if", "then", "else", "contentSchema"),
)
LISTS: Final = ("prefixItems", "anyOf", "oneOf", "allOf")
NAMED: Final = ("properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions")


class Unusable(ValueError):
    """Why a schema is refused, and what to do instead; half a sentence."""


class Node(NamedTuple):
    """A subschema. `depth` is how many schemas it stands in."""

    pointer: str
    schema: JsonObject | bool
    depth: int = 0

    @property
    def keywords(self) -> JsonObject:
        """What it says; nothing where it is true or false."""
        return self.schema if isinstance(self.schema, dict) else {}


@contextmanager
def naming(param: str) -> Iterator[None]:
    """Turns the reason of a refusal into the client's error.

    Raises:
        InvalidRequest: the block refused the schema at `param`.
    """
    try:
        yield
    except Unusable as fault:
        raise InvalidRequest(f"Invalid schema for {param}: {fault}.", param=param, code="invalid_json_schema") from None


def walk(schema: JsonObject) -> Iterator[Node]:
    """Every subschema once, parents before children, references not followed.

    Raises:
        Unusable: they are nested too deep, or are too many.
    """
    waiting = [Node("#", schema)]
    for _ in range(MAX_SUBSCHEMAS):
        if not waiting:
            return
        node = waiting.pop()
        if node.depth > MAX_DEPTH:
            raise Unusable(f"it is nested deeper than {MAX_DEPTH} levels at {shown(node.pointer)}; flatten it")
        yield node
        waiting.extend(children(node))
    if waiting:
        raise Unusable(f"it has more than {MAX_SUBSCHEMAS} subschemas; ask for less at once")


def children(node: Node) -> Iterator[Node]:
    """The subschemas that stand directly in one."""
    for keyword, value in node.keywords.items():
        for steps, schema in _subschemas(keyword, value):
            if isinstance(schema, dict | bool):
                yield Node("/".join((node.pointer, keyword, *map(escaped, steps))), schema, node.depth + 1)


def _subschemas(keyword: str, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if keyword in ONE:
        yield (), value
    elif keyword in LISTS and isinstance(value, list):
        yield from (((str(place),), schema) for place, schema in enumerate(value))
    elif keyword in NAMED and isinstance(value, Mapping):
        yield from (((name,), schema) for name, schema in value.items())


def escaped(name: str) -> str:
    """A name as a step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def shown(text: str) -> str:
    """The client's own words, quoted and cut."""
    return f"'{text[:MAX_SHOWN]}…'" if len(text) > MAX_SHOWN else f"'{text}'"
