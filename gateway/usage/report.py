"""What is told of usage: which counts are asked for, and their sums. Pure."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, get_args

from gateway.errors import InvalidRequest
from gateway.usage.counts import Account, Counts, Dimension, Query
from gateway.wire import KeptIn, UsageReport, UsageRow, UsageSums

FILTERS = ("key", "team", "model")
PARAMETERS = ("from", "to", *FILTERS, "by")
USUAL_DAYS = 30
MOST_DAYS = 400
LONGEST_NAME = 200
EARLIEST = date(1970, 1, 1)
_BILLION = 10**9


def query(given: Mapping[str, str], *, today: str) -> Query:
    """What the parameters ask for; without any, the last 30 days by all that there is.

    Raises:
        InvalidRequest: one of them cannot be read; it names it.
    """
    if unknown := next((name for name in given if name not in PARAMETERS), None):
        raise _refused(unknown[:40], f"there is no such parameter. There are {', '.join(map(repr, PARAMETERS))}")
    last = _day("to", given.get("to", today))
    first = _day("from", given["from"]) if "from" in given else last - timedelta(days=USUAL_DAYS - 1)
    if first > last:
        raise _refused("from", f"it is later than 'to', {last}")
    if (last - first).days >= MOST_DAYS:
        raise _refused("from", f"at most {MOST_DAYS} days can be asked for at once")
    chosen = {name: _name(name, given[name]) for name in FILTERS if name in given}
    return Query(first=first.isoformat(), last=last.isoformat(), by=_by(given.get("by")), **chosen)


def report(asked: Query, groups: Mapping[Account, Counts], *, currency: str | None, kept: KeptIn) -> UsageReport:
    """The sums of each group, in order, and of all."""
    total = Counts()
    for counts in groups.values():
        total.add(counts)
    return UsageReport(
        first=asked.first,
        last=asked.last,
        by=list(asked.by),
        currency=currency,
        kept=kept,
        rows=[UsageRow(**_sums(groups[account]), **_named(account)) for account in sorted(groups)],
        total=UsageSums(**_sums(total)),
    )


def _named(account: Account) -> dict[str, Any]:
    return {name: part for name, part in account._asdict().items() if part}


def _sums(counts: Counts) -> dict[str, Any]:
    sums = {name: getattr(counts, name) for name in UsageSums.__struct_fields__ if hasattr(counts, name)}
    return sums | {
        "saved_seconds": counts.saved_milliseconds / 1000,
        "cost": money(counts.cost),
        "saved_cost": money(counts.saved_cost),
    }


def money(billionths: int) -> str:
    """An amount as a decimal number, to its last digit."""
    whole, rest = divmod(billionths, _BILLION)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def _day(name: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = date.min
    if day < EARLIEST or day.isoformat() != text:
        raise _refused(name, "a day is wanted, such as 2026-01-31")
    return day


def _name(name: str, text: str) -> str:
    if not 0 < len(text) <= LONGEST_NAME:
        raise _refused(name, f"a name of {LONGEST_NAME} characters at most is wanted, or '-' for none")
    return text


def _by(text: str | None) -> tuple[Dimension, ...]:
    dimensions = get_args(Dimension)
    wanted = dimensions if text is None else text.split(",")
    if not set(wanted) <= set(dimensions):
        raise _refused("by", f"one or several of {', '.join(map(repr, dimensions))} are wanted, with commas between")
    return tuple(each for each in dimensions if each in wanted)


def _refused(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{name}': {why}.", param=name, code="invalid_value")
