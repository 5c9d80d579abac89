"""What a request counts for, and what it costs."""

from decimal import Decimal
from typing import Any

import pytest

from gateway.usage.counts import Account, Counts, Query
from gateway.usage.settings import Price
from gateway.values import Money, from_text
from gateway.wire import Usage
from tests.gateway.usage.made import record

PRICE = Price(pictures=Money(1_500_000), prompt_tokens=Money(20_000), completion_tokens=Money(80_001))
WORTH = 1_500_000 + 10 * 20_000 + 3 * 80_001  # billionths, for a picture and its tokens
TOKENS = {"pictures": 1, "prompt_tokens": 10, "completion_tokens": 3, "picture_tokens": 4}


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, {"requests": 1, "cost": WORTH, **TOKENS}),
        ({"cache": "bypass"}, {"requests": 1, "cost": WORTH, **TOKENS}),
        (
            {"cache": "hit", "saved": 1.2344},
            {"requests": 1, "hits": 1, "saved_cost": WORTH, "saved_tokens": 13, "saved_milliseconds": 1234, **TOKENS},
        ),
        (
            {"cache": "join", "saved": 0.5},
            {"requests": 1, "joins": 1, "saved_cost": WORTH, "saved_tokens": 13, "saved_milliseconds": 500, **TOKENS},
        ),
        # Who made it has left: now it is this one's.
        ({"cache": "join", "saved": None}, {"requests": 1, "joins": 1, "cost": WORTH, **TOKENS}),
        # The client left in mid-stream.
        ({"usage": None}, {"requests": 1, "unmetered": 1, "pictures": 1}),
        # The engine says nothing of tokens.
        ({"usage": Usage(0, 0, 0)}, {"requests": 1, "unmetered": 1, "pictures": 1, "cost": 1_500_000}),
        (
            {"digests": [], "usage": Usage(7, 2, 9)},
            {"requests": 1, "prompt_tokens": 7, "completion_tokens": 2, "cost": 7 * 20_000 + 2 * 80_001},
        ),
        ({"status": 404, "error": "model_not_found", "usage": None}, {"failed": 1}),
        ({"status": 499, "usage": None}, {"failed": 1}),
        ({"error": "engine_error", "usage": None}, {"failed": 1}),  # in the middle of a stream
        ({"status": 502, "error": "engine_error"}, {"failed": 1}),  # its answer broke its promise
    ],
)
def test_a_request_counts_for_what_its_answer_says(fields: dict[str, Any], counts: dict[str, int]) -> None:
    """Answered ones with pictures, tokens and money, in what was spent or what was saved; others as failed alone."""
    total = Counts()
    total.count(record(**fields), PRICE)

    assert total == Counts(**counts)


def test_what_has_no_price_costs_nothing() -> None:
    """Prices need not be configured."""
    total = Counts()
    total.count(record(), Price())

    assert total.cost == 0


@pytest.mark.parametrize(
    ("written", "millionths"),
    [(1.5, 1_500_000), ("1.5", 1_500_000), (0.1, 100_000), (0, 0), ("0.000001", 1), (1_000_000, 10**12), (1e-6, 1)],
)
def test_money_is_exact(written: object, millionths: int) -> None:
    """As it is written, in decimals."""
    assert from_text(Money, written) == millionths


@pytest.mark.parametrize(
    "written", ["", "much", -1, "-0.1", True, "NaN", "sNaN", "Infinity", "1e7", "0.0000001", 0.1 + 0.2, "1,5", None, []]
)
def test_what_is_no_amount_is_told_with_examples(written: object) -> None:
    """Nothing is rounded."""
    with pytest.raises(ValueError, match=r"0\.000125"):
        from_text(Money, written)


def test_a_million_small_costs_add_up_exactly() -> None:
    """Which they would not in floating point."""
    price = Price(prompt_tokens=Money(100_000))  # 0.1 for a thousand
    total = Counts()
    for _ in range(1000):
        total.count(record(usage=Usage(1, 0, 1)), price)

    assert Decimal(total.cost) / 10**9 == Decimal("0.1")


ACCOUNT = Account("2026-01-02", "ann", "a", "demo")


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        (Query(first="2026-01-02", last="2026-01-02"), True),
        (Query(first="2026-01-03", last="2026-01-04"), False),
        (Query(first="2025-01-03", last="2026-01-01"), False),
        (Query(first="2026-01-01", last="2026-02-01", key="ann", team="a", model="demo"), True),
        (Query(first="2026-01-01", last="2026-02-01", key="an"), False),
        (Query(first="2026-01-01", last="2026-02-01", team="b"), False),
        (Query(first="2026-01-01", last="2026-02-01", model="-"), False),
    ],
)
def test_a_query_means_its_days_and_names(query: Query, holds: bool) -> None:
    """All of them."""
    assert query.holds(ACCOUNT) is holds


def test_what_is_not_told_apart_is_left_out() -> None:
    """So that those accounts fall together."""
    assert Query(first="", last="", by=("team", "day")).group(ACCOUNT) == Account("2026-01-02", "", "a", "")
