"""Kept answers, to keep."""

import time
from typing import Any

from gateway import cache, wire
from gateway.cache import Stored

USAGE = wire.Usage(1, 2, 3)


def choices(words: str) -> list[wire.Choice]:
    """An answer in those words."""
    return [wire.Choice(index=0, message=wire.AssistantMessage(content=words), finish_reason="stop")]


def named(digest: object, *pictures: str, scope: str = "t", model: str = "m") -> str:
    """A key of that form."""
    return ":".join([scope, model, ".".join(pictures), str(digest)])


def stored(name: str, words: str = "a cat", **fields: Any) -> Stored:
    """An answer kept under that key, for a minute."""
    now = time.time()
    plain: dict[str, Any] = {"version": cache.VERSION, "seconds": 0.5}
    plain |= {"made": now, "expires": now + 60}
    return Stored(key=name, choices=choices(words), usage=USAGE, **(plain | fields))
