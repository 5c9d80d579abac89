"""What administrators are told of the cache."""

import msgspec
from msgspec import Struct


class Amount(Struct, frozen=True, kw_only=True):
    """So many kept answers, of so many bytes; `complete` is False when there was no time to look at all of them."""

    entries: int
    bytes: int
    complete: bool = True


class CacheReport(Struct, frozen=True, kw_only=True, tag_field="object", tag="cache"):
    """What the cache has been good for since this gateway started, and what it holds; `redis` is null without one.

    What was saved is what making the answers anew would have taken: the engines' time, and tokens. `not_shared` counts
    the answers that Redis was to have and does not, because it was away, too slow or full.
    """

    hits: int
    joins: int
    misses: int
    bypasses: int
    saved_seconds: float
    saved_tokens: int
    not_shared: int
    memory: Amount
    redis: Amount | None


class CacheRemoved(Struct, frozen=True, kw_only=True, tag_field="object", tag="cache.removed"):
    """What was removed; `redis` is null without one."""

    memory: Amount
    redis: Amount | None


decode_report = msgspec.json.Decoder(CacheReport).decode
decode_removed = msgspec.json.Decoder(CacheRemoved).decode
