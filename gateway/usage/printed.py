"""A report of usage as it is printed: a table for people, CSV, JSON."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.wire import UsageReport, UsageRow, UsageSums

_MONEY = ("cost", "saved_cost")
_SHOWN = (
    "requests", "failed", "pictures", "prompt_tokens", "completion_tokens", "hits", "joins",
    "saved_tokens", "saved_seconds", *_MONEY,
)  # fmt: skip


def table(report: UsageReport) -> str:
    """For people: aligned, with the sum below; without money where nothing has a price."""
    free = report.total.cost == report.total.saved_cost == "0"
    columns = [name for name in _SHOWN if not (free and name in _MONEY)]
    lines = [
        [*report.by, *(_heading(name, report.currency) for name in columns)],
        *([*_names(row, report.by), *_numbers(row, columns)] for row in report.rows),
        ["total", *[""] * (len(report.by) - 1), *_numbers(report.total, columns)],
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    place = {"redis": "in Redis", "disk": "on disk", "memory": "in memory"}[report.kept]
    note = f"from {report.first} to {report.last}, days of UTC; kept {place}"
    return "\n".join([*(_line(line, widths, len(report.by)) for line in lines), "", note])


def as_csv(report: UsageReport) -> str:
    """For spreadsheets: a line for each row, every counter; the sums are theirs to make."""
    counters = UsageSums.__struct_fields__
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*report.by, *counters, "currency"])
    for row in report.rows:
        writer.writerow([*_names(row, report.by), *(getattr(row, name) for name in counters), report.currency or ""])
    return written.getvalue().rstrip("\n")


def as_json(report: UsageReport) -> str:
    """As the gateway says it, to be read."""
    return msgspec.json.format(msgspec.json.encode(report)).decode()


FORMS: Mapping[str | None, Callable[[UsageReport], str]] = {None: table, "csv": as_csv, "json": as_json}


def _heading(name: str, currency: str | None) -> str:
    words = name.replace("_", " ")
    return f"{words} {currency}" if currency and name in _MONEY else words


def _names(row: UsageRow, by: Sequence[str]) -> list[str]:
    return [str(getattr(row, name)) for name in by]


def _numbers(sums: UsageSums, columns: Sequence[str]) -> list[str]:
    values = [getattr(sums, name) for name in columns]
    return [f"{value:.1f}" if isinstance(value, float) else str(value) for value in values]


def _line(words: Sequence[str], widths: Sequence[int], names: int) -> str:
    """Names to the left, numbers to the right."""
    aligned = [
        word.ljust(width) if at < names else word.rjust(width)
        for at, (word, width) in enumerate(zip(words, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
