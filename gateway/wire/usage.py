"""What administrators are told of usage."""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

KeptIn = Literal["redis", "disk", "memory"]


class UsageSums(Struct, frozen=True, kw_only=True):
    """Sums of what was counted, see `gateway/usage/counts.py`; money is a decimal number, as text to keep it exact."""

    requests: int
    failed: int
    unmetered: int
    pictures: int
    prompt_tokens: int
    completion_tokens: int
    picture_tokens: int
    hits: int
    joins: int
    saved_tokens: int
    saved_seconds: float
    cost: str
    saved_cost: str


class UsageRow(UsageSums, frozen=True, kw_only=True):
    """The sums of one group; what groups are not told apart by is absent."""

    day: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    team: str | UnsetType = UNSET
    model: str | UnsetType = UNSET


class UsageReport(Struct, frozen=True, kw_only=True, tag_field="object", tag="usage"):
    """What was used on the days of UTC from `first` to `last`, both included; `kept` says where it is kept."""

    first: str = msgspec.field(name="from")
    last: str = msgspec.field(name="to")
    time_zone: Literal["UTC"] = "UTC"
    by: list[str]
    currency: str | None
    kept: KeptIn
    rows: list[UsageRow]
    total: UsageSums


decode_usage = msgspec.json.Decoder(UsageReport).decode
