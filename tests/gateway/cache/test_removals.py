"""Notes of what was removed: no answer whose making began before is kept after it."""

import pytest

from gateway.cache import Selection, removals
from gateway.cache.removals import REMEMBERED, Removals
from tests.gateway.cache.answers import named


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


def test_an_answer_under_way_is_held_and_a_later_one_is_not() -> None:
    """However long it takes to make it; what is not meant goes its way."""
    clock = Clock()
    notes = Removals(clock=clock)
    assert not notes.hold(named(1), 60)
    clock.now += 100
    notes.note(Selection(model="m", digest="p"))
    clock.now += 10

    assert [notes.hold(named(1, "p"), seconds) for seconds in (0, 9, 10, 11, 1000)] == [False, False, True, True, True]
    assert not notes.hold(named(1, "q"), 11)
    assert not notes.hold(named(1, "p", model="n"), 11)


def test_notes_are_few_and_short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many, what the oldest meant is every answer: too much is forgotten rather than too little."""
    monkeypatch.setattr(removals, "MOST", 3)
    clock = Clock()
    notes = Removals(clock=clock)
    for number in range(5):
        clock.now += 10
        notes.note(Selection(digest=str(number)))

    assert [notes.hold(named("x"), seconds) for seconds in (0, 29, 30, 100)] == [False, False, True, True]
    assert [notes.hold(named(4), seconds) for seconds in (0, 1)] == [True, True]
    clock.now += REMEMBERED + 1
    assert not notes.hold(named(4), 1)
    assert not notes.hold(named("x"), REMEMBERED + 100)


def test_an_answer_older_than_any_note_is_held_by_those_that_mean_it() -> None:
    """However old it is, and however many notes there were once."""
    clock = Clock()
    notes = Removals(clock=clock)
    notes.note(Selection(digest="p"))

    assert notes.hold(named(1, "p"), 20 * REMEMBERED)
    assert not notes.hold(named(1, "q"), 20 * REMEMBERED)
