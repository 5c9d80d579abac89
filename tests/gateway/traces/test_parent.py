"""Which trace a request belongs to is read strictly."""

import pytest

from gateway.traces.parent import carry, headers, sent

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("value", [GOOD, GOOD.replace(b"00-", b"01-", 1), GOOD[:-2] + b"00"])
def test_a_parent_is_taken(value: bytes) -> None:
    """Of this version of the standard, or of one to come, sampled or not."""
    assert sent([(b"host", b"x"), (b"traceparent", value)]) == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD.upper(),
        GOOD + b"\n",
        GOOD + b"-more",
        GOOD[:-1],
        b"ff" + GOOD[2:],
        b"00-" + b"0" * 32 + GOOD[35:],
        GOOD[:36] + b"0" * 16 + GOOD[52:],
        b"x" * 100_000,
    ],
)
def test_what_is_none_is_none(value: bytes) -> None:
    """Nothing of it goes anywhere."""
    assert sent([(b"traceparent", value)]) is None


def test_two_parents_are_none() -> None:
    """Nobody can say which is meant."""
    assert sent([(b"traceparent", GOOD), (b"traceparent", GOOD)]) is None


def test_what_is_carried_is_told() -> None:
    """To engines, as a header; nothing where there is nothing."""
    carry(None)
    assert headers() == {}

    carry(GOOD.decode())
    assert headers() == {"traceparent": GOOD.decode()}
    carry(None)
