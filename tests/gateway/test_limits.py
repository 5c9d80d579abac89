"""What may be under way at once."""

from contextlib import ExitStack

import pytest

from gateway.errors import Overloaded
from gateway.limits import Gate


def test_one_more_than_the_limit_is_refused_with_a_time_to_come_back() -> None:
    """The limit counts requests, and a refusal says when to try again."""
    gate = Gate(max_requests=2, max_bytes=100)

    with gate.admitted(1), gate.admitted(1), pytest.raises(Overloaded) as caught, gate.admitted(1):
        pass

    assert caught.value.status == 429
    assert caught.value.retry_after is not None


def test_bytes_are_bounded_across_requests() -> None:
    """Bodies that together exceed the limit are refused, though each alone is small."""
    gate = Gate(max_requests=10, max_bytes=100)

    with gate.admitted(60), pytest.raises(Overloaded), gate.admitted(41):
        pass


def test_a_body_alone_is_never_refused_for_its_bytes() -> None:
    """The largest body allowed passes when nothing else is under way."""
    gate = Gate(max_requests=10, max_bytes=100)

    with gate.admitted(1000):
        assert gate.bytes == 1000


def test_places_are_given_back_whatever_happens() -> None:
    """A request that fails leaves the gate as it found it."""
    gate = Gate(max_requests=1, max_bytes=100)

    with pytest.raises(ZeroDivisionError), gate.admitted(50):
        raise ZeroDivisionError
    with ExitStack() as stack:
        stack.enter_context(gate.admitted(50))

    assert (gate.requests, gate.bytes) == (0, 0)
