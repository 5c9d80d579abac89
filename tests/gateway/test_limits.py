"""What may be under way at once."""

from contextlib import suppress

import pytest

from gateway.errors import Overloaded
from gateway.limits import Gate


def test_one_more_than_the_limit_is_refused_with_a_time_to_come_back() -> None:
    """The limit counts requests, and a refusal says when to try again."""
    gate = Gate(max_requests=2, max_bytes=100)

    with gate.admitted(), gate.admitted(), pytest.raises(Overloaded) as caught, gate.admitted():
        pass

    assert caught.value.status == 429
    assert caught.value.retry_after is not None


def test_bytes_are_bounded_across_requests() -> None:
    """Bodies that together exceed the limit are refused as they arrive, though each alone is small."""
    gate = Gate(max_requests=10, max_bytes=100)

    with gate.admitted() as one, gate.admitted() as other:
        one(60)
        other(40)
        with pytest.raises(Overloaded):
            other(1)
        assert gate.bytes == 100


def test_a_body_alone_is_never_refused_for_its_bytes() -> None:
    """The largest body allowed passes when nothing else is under way, however it arrives."""
    gate = Gate(max_requests=10, max_bytes=100)

    with gate.admitted() as hold:
        hold(60)
        hold(940)
        assert gate.bytes == 1000


def test_places_are_given_back_whatever_happens() -> None:
    """A request that fails leaves the gate as it found it."""
    gate = Gate(max_requests=1, max_bytes=100)

    with suppress(ZeroDivisionError), gate.admitted() as hold:
        hold(50)
        raise ZeroDivisionError
    with gate.admitted() as hold:
        hold(50)

    assert (gate.requests, gate.bytes) == (0, 0)
