"""When a server is left alone and when it is tried again, by a clock that the test moves."""

import random

import pytest

from gateway.breaker import Breaker, RetryBudget


@pytest.fixture(autouse=True)
def longest_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is cut, so that each is known."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)


def send(breaker: Breaker, verdict: bool | None, now: float) -> None:
    """One request that ends at once."""
    assert breaker.allows(now)
    breaker.end(breaker.begin(), verdict, now)


def opened(at: float = 0.0) -> Breaker:
    """A breaker that has just opened for five seconds."""
    breaker = Breaker()
    for _ in range(5):
        send(breaker, False, at)
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    """Four are borne, and a success between them begins the count anew."""
    breaker = Breaker()
    for verdict in (False, False, False, False, True, False, False, False, False):
        send(breaker, verdict, 0)
    assert breaker.closed

    send(breaker, False, 0)

    assert (breaker.closed, breaker.allows(4.9), breaker.allows(5)) == (False, False, True)


def test_more_failures_than_successes_open_it_from_twenty_requests_on() -> None:
    """Half of them may fail; nineteen are too few to judge by."""
    breaker = Breaker()
    for number in range(19):
        send(breaker, number % 2 == 1, number / 4)
    send(breaker, True, 5)
    assert breaker.closed

    send(breaker, False, 5)

    assert not breaker.closed


def test_what_is_long_ago_is_forgotten() -> None:
    """Only the last ten seconds count towards the share of failures."""
    breaker = Breaker()
    for number in range(18):
        send(breaker, number % 4 == 3, 0)
    for number in range(30):
        send(breaker, number % 2 == 0, 10)

    assert breaker.closed


def test_what_says_nothing_of_the_server_counts_neither_way() -> None:
    """A client that leaves, or a request that was refused for its own fault, neither opens nor excuses."""
    breaker = Breaker()
    for _ in range(100):
        send(breaker, None, 0)
    assert breaker.closed
    for verdict in (False, None) * 5:
        if breaker.closed:
            send(breaker, verdict, 0)

    assert not breaker.closed


def test_pauses_double_up_to_a_minute() -> None:
    """Each trial that fails makes the next pause twice as long."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        pauses.append(breaker.paused_until - now)
        now = breaker.paused_until
        send(breaker, False, now)

    assert pauses == [5, 10, 20, 40, 60, 60]


def test_half_open_lets_one_request_through_at_a_time() -> None:
    """The second waits for the first's verdict; a trial without a verdict makes way for the next."""
    breaker = opened()
    trial = breaker.begin()
    assert not breaker.allows(6)
    breaker.end(trial, None, 6)
    assert breaker.allows(6)

    breaker.end(breaker.begin(), True, 7)

    assert breaker.closed


def test_a_success_forgives_everything() -> None:
    """Once closed it bears four failures again, and opens for five seconds again."""
    breaker = opened()
    send(breaker, False, 5)
    send(breaker, True, 15)
    for _ in range(4):
        send(breaker, False, 16)
    assert breaker.closed

    send(breaker, False, 16)

    assert breaker.paused_until == 21


def test_requests_from_before_it_opened_change_nothing() -> None:
    """A server that dies with fifty requests has one pause, not ten doubled ones; nor does a late success close it."""
    breaker = Breaker()
    under_way = [breaker.begin() for _ in range(50)]
    for era in under_way[:40]:
        breaker.end(era, False, 0)
    trial = breaker.begin()
    for era in under_way[40:]:
        breaker.end(era, True, 6)
    assert (breaker.closed, breaker.paused_until, breaker.allows(6)) == (False, 5, False)

    breaker.end(trial, True, 6)

    assert breaker.closed


def test_a_tenth_of_the_requests_may_be_tried_again_and_ten_more() -> None:
    """However many fail, and however many went well before."""
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn()
    granted = 0
    for _ in range(1000):
        budget.earn()
        granted += budget.spend()

    assert 100 <= granted <= 110
