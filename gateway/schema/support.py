"""What an engine that writes by the schema honours: vLLM 0.32, whose grammars are XGrammar 0.2's.

That engine reads one form of a schema and passes over whatever stands beside it, without a word. vLLM refuses some
such schemas; its `auto` setting hands others to a second back end, but only the back end of an engine's first request
is ever loaded. So everything that would be passed over is refused here, with what to write instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from gateway.schema.bounds import MAX_COUNT
from gateway.schema.tree import PARAM, Node, Unusable, children, naming, shown, walk
from gateway.wire import JsonObject

MAX_LENGTH_LIMITS: Final = 8  # each different pair of minLength and maxLength costs seconds on a large vocabulary
MAX_COMPARED: Final = 50  # options of a 'oneOf': each is compared with each

FORMS: Final = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
OF_TYPE: Final = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
IMPLIED: Final = {"properties": "object", "items": "array"}
FORMATS: Final = (
    *("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "uri-reference"),
    *("uri-template", "json-pointer", "relative-json-pointer"),
)
UNSUPPORTED: Final = {
    **dict.fromkeys(("multipleOf",), "use 'minimum' and 'maximum', or list the values in 'enum'"),
    **dict.fromkeys(("contains", "minContains", "maxContains"), "describe the items with 'items'"),
    **dict.fromkeys(("uniqueItems",), "leave it out and ask for different items in the prompt"),
    **dict.fromkeys(("propertyNames", "patternProperties"), "list the names under 'properties'"),
    **dict.fromkeys(("minProperties", "maxProperties"), "name what has to be there in 'required'"),
    **dict.fromkeys(("unevaluatedProperties",), "use 'additionalProperties'"),
    **dict.fromkeys(("unevaluatedItems",), "use 'items'"),
    **dict.fromkeys(
        ("not", "if", "dependentRequired", "dependentSchemas", "dependencies"), "write out what is allowed in 'anyOf'"
    ),
}
KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def ensure_supported(schema: JsonObject, *, param: str = PARAM) -> None:
    """Refuses a schema that passed `ensure_bounds` but that vLLM would refuse or honour in part.

    Args:
        schema: JSON, as the client sent it.
        param: the request's field that it came in.

    Raises:
        InvalidRequest: it would; the message says where, and what to write instead.
    """
    with naming(param):
        nodes = list(walk(schema))
        places = {node.pointer: node for node in nodes}
        for node in nodes:
            _check_keywords(node)
            _check_reference(node)
        for node in nodes:
            _check_form(node, places)
            _check_string(node)
            _check_integer(node)
            _check_array(node)
            _check_object(node)
        _check_length_limits(nodes)


def _check_keywords(node: Node) -> None:
    closing = {f"{node.pointer}/additionalProperties", f"{node.pointer}/items"}
    if empty := next(
        (child for child in children(node) if child.schema is False and child.pointer not in closing), None
    ):
        raise Unusable(f"nothing fits 'false' at {shown(empty.pointer)}; leave that property or option out")
    for keyword, remedy in UNSUPPORTED.items():
        if keyword in node.keywords:
            raise Unusable(f"{keyword!r} at {shown(node.pointer)} is not supported by this model's engine; {remedy}")


def _check_form(node: Node, places: dict[str, Node]) -> None:
    said = node.keywords
    constraints = [keyword for keywords in OF_TYPE.values() for keyword in keywords if keyword in said]
    forms = [form for form in FORMS if form in said]
    if not forms:
        if constraints and not _types(said):
            raise Unusable(f"{constraints[0]!r} at {shown(node.pointer)} has no 'type' beside it; name the type")
        return
    form, *others = forms
    typed = ["type"] if "type" in said and form not in {"const", "enum"} else []
    if beside := next(iter([*others, *constraints, *typed]), None):
        raise Unusable(
            f"this model's engine does not read {beside!r} beside {form!r} at {shown(node.pointer)}; "
            f"write all of it {_inside(form)}"
        )
    _check_values(node)
    _check_options(node, places)


def _inside(form: str) -> str:
    return "into what the reference leads to" if form == "$ref" else f"inside {form!r}"


def _check_values(node: Node) -> None:
    said = node.keywords
    values = _values(said)
    if "enum" in said and not values:
        raise Unusable(f"'enum' at {shown(node.pointer)} is empty, so that nothing fits; list its values")
    types = _types(said)
    if values and types and not all(any(_is_of(value, kind) for kind in types) for value in values):
        raise Unusable(f"a value at {shown(node.pointer)} is not of the 'type' beside it; make them agree")


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _check_reference(node: Node) -> None:
    reference = node.keywords.get("$ref", "")
    if {"~", "%"} & set(reference) or any(step.isdecimal() for step in reference.split("/")):
        raise Unusable(
            f"this model's engine does not follow the reference {shown(reference)}; "
            "refer to '#/$defs/NAME' with a name of letters, digits and underscores"
        )


def _check_options(node: Node, places: dict[str, Node]) -> None:
    if len(node.keywords.get("allOf", ())) > 1:
        raise Unusable(
            f"'allOf' at {shown(node.pointer)} has several schemas, which this model's engine does not combine; "
            "write them as one"
        )
    options = [_followed(option, places) for option in node.keywords.get("oneOf", ())]
    if not _are_disjoint(options):
        raise Unusable(
            f"the options of 'oneOf' at {shown(node.pointer)} may overlap, which this model's engine "
            "does not prevent; use 'anyOf', or tell options apart by 'type' or by the 'const' of a required property"
        )


def _followed(option: Any, places: dict[str, Node]) -> JsonObject:
    while isinstance(option, dict) and "$ref" in option:
        option = places[option["$ref"]].schema
    return option if isinstance(option, dict) else {}


def _are_disjoint(options: Sequence[JsonObject]) -> bool:
    """Whether no value fits two of the schemas: their types differ, or what one property must be does."""
    return len(options) <= MAX_COMPARED and all(_differ(one, other) for one, other in combinations(options, 2))


def _differ(one: JsonObject, other: JsonObject) -> bool:
    kinds = [{"number" if kind == "integer" else kind for kind in _types(option)} for option in (one, other)]
    if all(kinds) and not kinds[0] & kinds[1]:
        return True
    values = [_values(option) for option in (one, other)]
    if all(values):
        return not any(value in values[1] for value in values[0])
    return any(
        _differ(one["properties"][name], other["properties"][name]) for name in _tags(one) if name in _tags(other)
    )


def _values(option: JsonObject) -> list[Any]:
    values: list[Any] = option.get("enum", [option["const"]] if "const" in option else [])
    return values


def _tags(option: JsonObject) -> list[str]:
    """The required properties that can tell an option from another."""
    properties = option.get("properties", {})
    return [name for name in option.get("required", ()) if isinstance(properties.get(name), dict)]


def _check_string(node: Node) -> None:
    said = node.keywords
    if "string" not in _types(said):
        return
    if "format" in said and said["format"] not in FORMATS:
        raise Unusable(
            f"the 'format' at {shown(node.pointer)} is not supported by this model's engine; "
            f"use one of {', '.join(FORMATS)}, or leave it out"
        )
    found = [keyword for keyword in ("pattern", "format", "maxLength", "minLength") if keyword in said]
    if len(found) > 1 and found[0] in {"pattern", "format"}:
        raise Unusable(
            f"this model's engine does not keep to {found[0]!r} and {found[1]!r} together at {shown(node.pointer)}; "
            "leave one out, or write the length into the pattern, as in '^[a-z]{1,20}$'"
        )


def _check_integer(node: Node) -> None:
    if "integer" not in _types(node.keywords):
        return
    for keyword in OF_TYPE["number"]:
        if node.keywords.get(keyword, 0) % 1:
            raise Unusable(f"{keyword!r} of an integer at {shown(node.pointer)} must be a whole number")


def _check_array(node: Node) -> None:
    said = node.keywords
    if said.get("items", False) is False and said.get("minItems", 0) > len(said.get("prefixItems", ())):
        raise Unusable(f"'minItems' at {shown(node.pointer)} asks for items that are not described; add 'items'")
    if said.get("maxItems", MAX_COUNT) < len(said.get("prefixItems", ())):
        raise Unusable(f"'maxItems' at {shown(node.pointer)} is below the number of 'prefixItems'; make them agree")
    if True in said.get("prefixItems", ()):
        raise Unusable(f"this model's engine takes no 'true' among 'prefixItems' at {shown(node.pointer)}; write {{}}")


def _check_object(node: Node) -> None:
    properties = node.keywords.get("properties", {})
    for name in node.keywords.get("required", ()):
        if name not in properties:
            raise Unusable(f"the required property {shown(name)} at {shown(node.pointer)} is not in its 'properties'")


def _check_length_limits(nodes: Iterable[Node]) -> None:
    keywords = ("minLength", "maxLength")
    limits = {tuple(node.keywords.get(key) for key in keywords) for node in nodes}
    if len(limits - {(None, None)}) > MAX_LENGTH_LIMITS:
        raise Unusable(
            f"it has more than {MAX_LENGTH_LIMITS} different limits on the length of strings; let some share one"
        )


def _types(said: JsonObject) -> tuple[str, ...]:
    declared = said.get("type", [kind for keyword, kind in IMPLIED.items() if keyword in said])
    return (declared,) if isinstance(declared, str) else tuple(declared)
