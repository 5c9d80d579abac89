"""How the log is set."""

from typing import Literal

from msgspec import Struct

LINES = "lines"  # what structlog is told of many requests at once: a Struct for each, encoded faster than its fields
MODEL, WORDS = "model", "words"  # what `logging` is told as `extra`: whose engine speaks, what may be a client's words


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log. `auto` is text on a terminal and JSON elsewhere; `prompts` lets it repeat what clients write."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    prompts: bool = False
