"""The kinds of values that settings have, and the error that says which of them cannot be used."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation


class ConfigError(Exception):
    """The configuration cannot be used. The message names the place, the key and the remedy."""


class Seconds(float):
    """A duration, written as a number of seconds or with a unit: "250ms", "10s", "5m", "24h", "7d"."""


class Bytes(int):
    """A size, written as a number of bytes or with a unit: "64KiB", "20MB", "1GiB"."""


class Money(int):
    """An amount in millionths, written as a number or, to the last digit, as text: 1.5, "0.000125"."""


_DURATION = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MOST_MONEY = Decimal(10**6)
SMALLEST_MONEY = Decimal("0.000001")
_QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[A-Za-z]*)")


def from_text(kind: type, value: object) -> object:
    """A duration, a size or an amount of money, for msgspec's `dec_hook`.

    Raises:
        ValueError: it is none; the message says how they are written.
    """
    if kind is Seconds:
        return Seconds(_quantity(value, _DURATION, "s", 'a duration such as "250ms", "10s" or "24h"'))
    if kind is Bytes:
        return Bytes(_quantity(value, _SIZE, "B", 'a size such as "64KiB" or "20MB"'))
    if kind is Money:
        return _money(value)
    raise ValueError(f"no values of {kind.__name__} can be read")


def to_text(value: object) -> str:
    """What `from_text` reads as that value, for msgspec's `enc_hook`.

    Raises:
        TypeError: it is of none of these kinds.
    """
    match value:
        case Seconds():
            return format(Decimal(float(value)), "f")
        case Money():
            return format(Decimal(int(value)) * SMALLEST_MONEY, "f")
        case Bytes():
            return str(int(value))
    raise TypeError(f"{type(value).__name__} is no kind of setting")


def _quantity(value: object, units: Mapping[str, float], plain: str, wanted: str) -> float:
    found = _QUANTITY.fullmatch(str(value).strip())
    if isinstance(value, bool) or found is None or (found["unit"] or plain) not in units:
        raise ValueError(f"expected {wanted}, got {value!r}")
    quantity = float(found["number"]) * units[found["unit"] or plain]
    if quantity == 0:
        raise ValueError(f"expected {wanted} above zero, got {value!r}")
    return quantity


def _money(value: object) -> Money:
    try:
        amount = Decimal("NaN") if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and 0 <= amount <= MOST_MONEY and amount == amount.quantize(SMALLEST_MONEY)):
        raise ValueError(
            f'expected an amount such as 1.5 or "0.000125", up to a million, with six decimals at most, got {value!r}'
        )
    return Money(amount / SMALLEST_MONEY)
