"""Answers held to their schema: compiled once per schema, checked in microseconds.

Formats are notes, as JSON Schema has it: grammars keep to them roughly ('2026-02-31' looks like a date), and an engine
that is asked again for the same would say the same. Nothing is ever fetched or read from a file, and patterns are
matched in linear time.
"""

from functools import lru_cache
from typing import Final

import jsonschema_rs
import msgspec

from gateway.wire import JsonObject

MAX_KEPT: Final = 64
PATTERN_MEMORY: Final = 2**20  # bytes: the most that one compiled pattern may take

_decode = msgspec.json.Decoder().decode


class Checker:
    """A schema's checker of answers.

    Raises:
        ValueError: the schema cannot be compiled; none that passed `ensure_bounds` does this.
    """

    def __init__(self, schema: str) -> None:
        self._validator = jsonschema_rs.Draft202012Validator(
            schema,
            validate_formats=False,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_MEMORY, dfa_size_limit=PATTERN_MEMORY),
            offline=True,
        )

    def is_valid(self, text: str) -> bool:
        """Whether the text is one JSON value, nothing around it, that fits the schema."""
        try:
            return self._validator.is_valid(_decode(text))
        except (ValueError, RecursionError):  # no JSON, or nested deeper than either library goes
            return False


def checked(schema: JsonObject) -> Checker:
    """The schema's checker; the last `MAX_KEPT` stay compiled.

    Raises:
        ValueError: the schema cannot be compiled; none that passed `ensure_bounds` does this.
    """
    plain = {key: value for key, value in schema.items() if key not in {"$schema", "$id"}}
    return _checker(msgspec.json.encode(plain, order="deterministic").decode())


@lru_cache(maxsize=MAX_KEPT)
def _checker(text: str) -> Checker:
    return Checker(text)
