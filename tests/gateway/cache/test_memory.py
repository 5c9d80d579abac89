"""Answers in this process: bounded in time and in bytes."""

import time

from gateway.cache import Selection
from gateway.cache.memory import MemoryStore
from tests.gateway.cache.answers import named, stored


def test_an_answer_is_there_until_its_time_is_up() -> None:
    """And not a moment longer; its bytes are free then."""
    now = time.time()
    store = MemoryStore(max_bytes=10_000, clock=lambda: now)
    value = stored("k", expires=now + 10)
    store.put(value)
    assert store.get("k") == value
    assert store.get("other") is None

    now += 10
    assert store.get("k") is None
    assert store.bytes == 0


def test_memory_is_bounded_in_bytes_and_drops_the_least_recently_used() -> None:
    """However much is kept, the bytes stay under the limit, and what was used last stays longest."""
    store = MemoryStore(max_bytes=3_000)
    store.put(stored("first"))
    for number in range(100):
        store.put(stored(str(number), "word " * 20))
        assert store.get("first") is not None
        assert store.bytes <= 3_000

    assert store.get("0") is None
    assert store.get("99") is not None


def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    """It drops nothing to make room for what cannot fit."""
    store = MemoryStore(max_bytes=1_500)
    store.put(stored("small"))
    store.put(stored("k", "x" * 5_000))

    assert store.get("k") is None
    assert store.get("small") is not None


def test_a_clock_that_is_set_back_makes_nothing_new() -> None:
    """How long an answer has been here, after which Redis is asked again, is no matter of the wall's clock."""
    now = time.time()
    store = MemoryStore(max_bytes=10_000, clock=lambda: now)
    store.put(stored("k"))
    now -= 3600

    assert 0 <= store.here_for("k") < 60


async def test_what_is_chosen_is_removed_and_nothing_else() -> None:
    """By scope, by model, by the digest of an answer or of a picture, or by several; among a thousand others."""
    store = MemoryStore(max_bytes=2**20)
    for number in range(1_000):
        store.put(stored(named(number, scope="other")))
    store.put(stored(named(1, "p", "q", scope="a")))
    store.put(stored(named(2, scope="a", model="n")))
    store.put(stored(named(1, scope="ab")))

    removed = [
        (await store.remove(selection)).entries
        for selection in (
            Selection(scope="a", model="x"),
            Selection(scope="other", digest="q"),
            Selection(digest="q"),
            Selection(model="n"),
            Selection(scope="ab", digest="1"),
            Selection(scope="a"),
        )
    ]

    assert removed == [0, 0, 1, 1, 1, 0]
    assert store.amount.entries == 1_000
    assert (await store.remove(Selection(scope="other"))).entries == 1_000
    assert store.bytes == 0
