"""What a client asks for in headers: about the cache (`Cache-Control`) and about waiting (`Prefer`, RFC 7240). Pure."""

import re
from functools import lru_cache

from msgspec import Struct

_WAIT = re.compile(r'wait\s*=\s*(?P<quote>"?)(?P<seconds>\d{1,6})(?P=quote)\s*(?:;.*)?', re.IGNORECASE | re.ASCII)
_MAX_AGE = re.compile(r'max-age=(?P<quote>"?)(?P<seconds>\d{1,10})(?P=quote)', re.ASCII)

LONGEST_WAIT = 600.0  # seconds: who waits holds one of the places for requests


class Directives(Struct, frozen=True):
    """What the headers ask for; `wait` is how many seconds a load may take, None for what is configured.

    `max_age` is how many seconds old an answer may be, None for any age.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    wait: float | None = None


NO_DIRECTIVES = Directives()


@lru_cache(maxsize=32)  # of what may be as long as a head
def read(*, cache_control: str = "", prefer: str = "", longest_wait: float = LONGEST_WAIT) -> Directives:
    """The directives in two headers' values, with no more than `longest_wait` seconds to wait.

    What is malformed or unknown is ignored, as both headers want it.
    """
    asked = {directive.strip().lower() for directive in cache_control.split(",")}
    waits = (_WAIT.fullmatch(preference.strip()) for preference in prefer.split(","))
    first = next((found for found in waits if found), None)
    ages = [int(found["seconds"]) for found in map(_MAX_AGE.fullmatch, asked) if found]
    return Directives(
        no_cache="no-cache" in asked,
        no_store="no-store" in asked,
        only_if_cached="only-if-cached" in asked,
        max_age=min(ages, default=None),
        wait=min(float(first["seconds"]), longest_wait, LONGEST_WAIT) if first else None,
    )


def applied(wait: float | None) -> dict[str, str]:
    """The header that says for how many seconds a preference to wait was honoured; none where it was not."""
    return {} if wait is None else {"preference-applied": f"wait={wait:.0f}"}
