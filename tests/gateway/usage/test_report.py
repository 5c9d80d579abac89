"""What may be asked of usage, and what is told."""

import pytest

from gateway.errors import InvalidRequest
from gateway.usage.counts import Account, Counts, Query
from gateway.usage.printed import FORMS, table
from gateway.usage.report import money, query, report
from gateway.wire import UsageReport

TODAY = "2026-03-01"


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, Query(first="2026-01-31", last=TODAY)),
        ({"from": "2025-12-31"}, Query(first="2025-12-31", last=TODAY)),
        ({"to": "2024-02-29"}, Query(first="2024-01-31", last="2024-02-29")),
        ({"from": TODAY, "to": "2027-04-04"}, Query(first=TODAY, last="2027-04-04")),
        (
            {"key": "ann", "team": "-", "model": "m", "by": "model,day"},
            Query(first="2026-01-31", last=TODAY, key="ann", team="-", model="m", by=("day", "model")),
        ),
    ],
)
def test_what_is_not_said_has_a_default(given: dict[str, str], asked: Query) -> None:
    """The last thirty days, by all that there is."""
    assert query(given, today=TODAY) == asked


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "20260101"}, "from"),
        ({"from": "2026-W01-1"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"to": ""}, "to"),
        ({"to": "0001-01-01"}, "to"),
        ({"to": "\u0662\u0660\u0662\u0666-01-01"}, "to"),
        ({"from": "2026-03-02"}, "from"),
        ({"from": "2025-01-25"}, "from"),
        ({"by": ""}, "by"),
        ({"by": "day,hour"}, "by"),
        ({"by": "day,"}, "by"),
        ({"key": ""}, "key"),
        ({"team": "x" * 201}, "team"),
        ({"model": ""}, "model"),
        ({"form": "2026-01-01"}, "form"),
    ],
)
def test_slips_are_told_by_name(given: dict[str, str], param: str) -> None:
    """Nothing is guessed, and no parameter ignored."""
    with pytest.raises(InvalidRequest) as caught:
        query(given, today=TODAY)

    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("billionths", "amount"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000_000, "1.5"),
        (10**9, "1"),
        (10**10, "10"),
        (123_456_789_012, "123.456789012"),
    ],
)
def test_money_is_told_to_its_last_digit(billionths: int, amount: str) -> None:
    """As a decimal number."""
    assert money(billionths) == amount


def told(by: str = "key,model", *, cost: int = 1_500_000, currency: str | None = "EUR") -> UsageReport:
    """A report of two keys."""
    counts = Counts(requests=12, failed=1, pictures=9, prompt_tokens=1000, saved_milliseconds=1250, cost=cost)
    groups = {Account("", "bob", "", "demo"): counts, Account("", "ann", "", "our-vlm"): Counts(requests=1)}
    return report(query({"by": by}, today=TODAY), groups, currency=currency, kept="disk")


def test_rows_are_in_order_and_summed() -> None:
    """Names only where they are told apart."""
    report = told()

    assert [(row.key, row.model) for row in report.rows] == [("ann", "our-vlm"), ("bob", "demo")]
    assert (report.total.requests, report.total.saved_seconds, report.total.cost) == (13, 1.25, "0.0015")


def test_a_table_is_for_people() -> None:
    """Names to the left, numbers to the right, the sum below, and what one should know of the days."""
    heading, ann, bob, total, empty, note = table(told()).splitlines()

    assert heading.startswith("key    model    requests  failed  pictures  prompt tokens")
    assert heading.endswith("hits  joins  saved tokens  saved seconds  cost EUR  saved cost EUR")
    assert ann.split() == ["ann", "our-vlm", "1", *["0"] * 7, "0.0", "0", "0"]
    assert bob.split() == ["bob", "demo", "12", "1", "9", "1000", "0", "0", "0", "0", "1.2", "0.0015", "0"]
    assert total.split() == ["total", "13", *bob.split()[3:]]
    assert len(heading) == len(ann) == len(bob) == len(total)
    assert (empty, note) == ("", "from 2026-01-31 to 2026-03-01, days of UTC; kept on disk")


def test_where_nothing_has_a_price_no_money_is_told() -> None:
    """It would be zeros."""
    assert "cost" not in table(told(cost=0))
    assert "cost  saved cost" in table(told(currency=None))


def test_csv_and_json_hold_all_there_is() -> None:
    """For programs."""
    lines = FORMS["csv"](told()).splitlines()

    assert lines[0].startswith("key,model,requests,failed,unmetered,pictures,prompt_tokens,")
    assert lines[2] == "bob,demo,12,1,0,9,1000,0,0,0,0,0,1.25,0.0015,0,EUR"
    assert '"time_zone": "UTC"' in FORMS["json"](told())
