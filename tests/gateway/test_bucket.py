"""The arithmetic of a limit per minute."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.bucket import MINUTE, SECOND, Bucket, bucket

LIMITS = st.integers(1, 1_000_000)
STEPS = st.lists(st.tuples(st.integers(0, 2 * MINUTE), st.integers(0, 50)), max_size=60)


def taken(limit: int, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """When so many were let through, of steps that each wait a while (in microseconds) and then want so many."""
    now, full_at, passed = 0, 0, []
    for pause, count in steps:
        now += pause
        left = bucket(limit, full_at=full_at, now=now)
        if left.holds(count):
            full_at = now + left.without(count).debt
            passed.append((now, count))
    return passed


@given(LIMITS, STEPS)
def test_no_span_of_time_sees_more_than_a_bucket_and_what_flows_in(limit: int, steps: list[tuple[int, int]]) -> None:
    """However the requests come: a minute's worth at once, and after that no more than the limit per minute."""
    passed = taken(limit, steps)

    for start in range(len(passed)):
        for end in range(start, len(passed)):
            span = passed[end][0] - passed[start][0]
            total = sum(count for _, count in passed[start : end + 1])
            assert total <= limit + span // (MINUTE // limit) + 1


@given(LIMITS)
def test_a_full_bucket_holds_the_limit_and_not_one_more(limit: int) -> None:
    """Exactly: nobody loses a request to rounding."""
    assert Bucket(limit).holds(limit)
    assert not Bucket(limit).holds(limit + 1)
    assert Bucket(limit).without(limit).remaining == 0


@given(LIMITS, st.integers(0, MINUTE), st.integers(0, 1000))
def test_who_waits_as_told_is_let_through(limit: int, debt: int, count: int) -> None:
    """The wait is long enough, no longer than a minute, and never is told to whom no wait helps."""
    left = bucket(limit, full_at=debt, now=0)
    wait = left.wait(count)

    if wait is None:
        assert count > limit
    else:
        assert 0 <= wait <= 60
        assert bucket(limit, full_at=left.debt, now=round(wait * SECOND)).holds(count)
        assert (wait == 0) == left.holds(count)


@given(LIMITS, st.integers(0, MINUTE))
def test_what_remains_is_what_is_held(limit: int, debt: int) -> None:
    """The number that a client is told is the number that it can use at once."""
    left = bucket(limit, full_at=debt, now=0)

    assert 0 <= left.remaining <= limit
    assert left.holds(left.remaining)
    assert not left.holds(left.remaining + 1)
    assert (left.reset == 0) == (left.debt == 0)


@given(LIMITS, st.integers(-(10**18), 10**18), st.integers(0, 10**18))
def test_a_clock_that_was_set_locks_nobody_out(limit: int, full_at: int, now: int) -> None:
    """A time that no bucket takes is no time: nobody waits longer than a minute."""
    left = bucket(limit, full_at=full_at, now=now)

    assert 0 <= left.debt <= left.depth
    assert (left.debt > 0) == (now < full_at <= now + MINUTE)


@given(LIMITS, LIMITS, st.integers(0, MINUTE))
def test_another_limit_takes_over_the_debt(before: int, after: int, debt: int) -> None:
    """A limit that is changed while it is used is neither forgotten nor more than empty."""
    left = bucket(after, full_at=bucket(before, full_at=debt, now=0).debt, now=0)

    assert 0 <= left.remaining <= after
