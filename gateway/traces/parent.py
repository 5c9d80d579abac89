"""The trace that a request belongs to: what its client says, and what its engine is told."""

import re
from collections.abc import Iterable
from contextvars import ContextVar

NAME = "traceparent"

Headers = Iterable[tuple[bytes, bytes]]

_SHAPE = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_parent: ContextVar[str | None] = ContextVar(NAME, default=None)


def sent(headers: Headers) -> str | None:
    """The parent that a client names, in the form of W3C's Trace Context; None where it names none, or several."""
    found = [value for name, value in headers if name == b"traceparent"]
    return found[0].decode() if len(found) == 1 and _SHAPE.fullmatch(found[0]) else None


def carry(parent: str | None) -> None:
    """From now on this is the parent of whatever this request has done elsewhere."""
    _parent.set(parent)


def headers() -> dict[str, str]:
    """What an engine is told of it."""
    parent = _parent.get()
    return {} if parent is None else {NAME: parent}
