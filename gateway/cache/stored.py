"""An answer as it is kept, and how it is written and read."""

import msgspec
from msgspec import Struct

from gateway import wire
from gateway.cache.key import VERSION

MAX_VALUE = 2**20  # bytes


class Stored(Struct, frozen=True, kw_only=True):
    """A complete answer. It names its own key, so that a store that mixes things up is found out.

    `made` and `expires` are seconds since 1970, `seconds` is what making it took.
    """

    version: int = VERSION
    key: str
    made: float
    expires: float
    seconds: float
    choices: list[wire.Choice]
    usage: wire.Usage

    @property
    def is_current(self) -> bool:
        """Whether we would write it like this today."""
        return self.version == VERSION

    def age(self, now: float) -> float:
        """How many seconds old it is."""
        return max(0.0, now - self.made)


encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Stored).decode


def read(data: bytes, key: str, now: float) -> Stored | None:
    """A kept answer, unless it is garbage, too large, of another version, another key's or too old."""
    if not 0 < len(data) <= MAX_VALUE:
        return None
    try:
        value = _decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if value.is_current and value.key == key and now < value.expires else None
