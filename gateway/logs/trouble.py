"""An exception as text: where it came from, of what kind it is, and its words where these say nothing of a client."""

import traceback
from collections.abc import Iterator

MOST = 10  # exceptions in a chain or a group
LONGEST = 500  # characters of an exception's words


def told(error: BaseException, *, with_words: bool) -> str:
    """The exception with those that led to it.

    A library's exception may repeat what it was given, which may be a client's. So words are shown where they are ours
    or the operating system's; `with_words` shows them all.
    """
    return "\n".join(_chain(error, with_words, {id(error)}))


def _chain(error: BaseException, with_words: bool, seen: set[int]) -> Iterator[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen and len(seen) < MOST:
        seen.add(id(before))
        yield from _chain(before, with_words, seen)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    yield _named(error, with_words)
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(inner) not in seen and len(seen) < MOST:
            seen.add(id(inner))
            yield from (f"  | {line}" for part in _chain(inner, with_words, seen) for line in part.split("\n"))


def _named(error: BaseException, with_words: bool) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    ours = kind.__module__.partition(".")[0] in ("gateway", "engines")
    shown = with_words or ours or (kind.__module__ == "builtins" and isinstance(error, OSError))
    return f"{name}: {str(error)[:LONGEST]}" if shown and str(error) else name
