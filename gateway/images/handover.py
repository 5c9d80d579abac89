"""Which pictures an engine may get as the client sent them, where the operator allows it. Pure: no I/O."""

from typing import Literal

from gateway.images.header import Header
from gateway.images.orientation import UPRIGHT
from gateway.images.plan import Sizing, plan

Handover = Literal["decoded", "original"]

_READ_BY_ALL = frozenset(["jpeg", "png"])
_DEPTH = 8  # bits


def is_plain(header: Header, sizing: Sizing) -> bool:
    """Whether every engine makes of the file what we would make of it, and it is not far larger than the model sees."""
    exact = plan(header, sizing, "exact")
    return (
        header.format in _READ_BY_ALL
        and header.colours in ("rgb", "grey")
        and header.bits == _DEPTH
        and header.orientation == UPRIGHT
        and not (header.alpha or header.animated or header.profile)
        and header.adobe is None
        and (exact.size, exact.scale, exact.factor) == (header.size, 1, 1)
    )
