"""What a key has used of its limits, in one process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.auth import ANONYMOUS, Caller
from gateway.bucket import Bucket
from gateway.errors import LimitReached
from gateway.quota import Allowance, Books, LocalBooks, Outcome, Wanted, duration

SECOND = 1_000_000


class Clock:
    """A clock that goes when it is told to, in microseconds."""

    def __init__(self) -> None:
        self.now = 10**9

    def __call__(self) -> int:
        return self.now


def caller(**limits: Any) -> Caller:
    """A key with those limits."""
    return Caller(key_id="ci", team="web", **limits)


def books() -> tuple[LocalBooks, Clock]:
    """Empty books, with a clock of their own."""
    clock = Clock()
    return LocalBooks(clock), clock


@asynccontextmanager
async def begun(books: Books, who: Caller) -> AsyncIterator[Allowance]:
    """A request that is under way."""
    allowance = Allowance(who, books)
    try:
        await allowance.begin()
        yield allowance
    finally:
        await allowance.leave()


async def request(books: Books, who: Caller, *, pictures: int = 0) -> dict[str, str]:
    """One request from its beginning to its end; what its headers said."""
    async with begun(books, who) as allowance:
        await allowance.take_pictures(pictures)
    return dict(allowance.headers())


async def look(books: Books, who: Caller) -> dict[str, str]:
    """What the headers say of a request that does not count."""
    allowance = Allowance(who, books)
    await allowance.settle()
    return dict(allowance.headers())


async def test_requests_are_counted_and_told() -> None:
    """Two of two, then a refusal that says when to come back, then one more."""
    made, clock = books()
    who = caller(requests_per_minute=2)

    told = [await request(made, who) for _ in range(2)]
    with pytest.raises(LimitReached) as caught:
        await request(made, who)
    clock.now += 30 * SECOND

    assert [each["x-ratelimit-remaining-requests"] for each in told] == ["1", "0"]
    assert [each["x-ratelimit-reset-requests"] for each in told] == ["30s", "1m0s"]
    assert caught.value.retry_after == 30
    assert await request(made, who)


async def test_what_others_write_down_gives_nothing_back() -> None:
    """Books elsewhere, which did not hear of what was taken here, say that there is plenty: here it stays taken."""
    made, _ = books()
    who, one = caller(requests_per_minute=3), Wanted(requests=1)

    refused = []
    for _ in range(5):
        refused.append((await made.take(who, one)).refused)
        made.note(who, one, Outcome(Bucket(3), None))

    assert refused == [None, None, None, "requests", "requests"]


async def test_pictures_are_charged_by_their_number() -> None:
    """A request that has more than are left is refused whole; one with fewer passes."""
    made, _ = books()
    who = caller(pictures_per_minute=5)

    assert (await request(made, who, pictures=3))["x-ratelimit-remaining-pictures"] == "2"
    with pytest.raises(LimitReached, match=r"5 pictures a minute\. Try again in 12s"):
        await request(made, who, pictures=3)
    assert (await request(made, who, pictures=2))["x-ratelimit-remaining-pictures"] == "0"


async def test_more_pictures_than_a_minute_has_never_pass() -> None:
    """No wait helps, so none is told, and a client does not try again by itself."""
    made, _ = books()

    with pytest.raises(LimitReached, match=r"The request has 6\. Send fewer") as caught:
        await request(made, caller(pictures_per_minute=5), pictures=6)

    assert (caught.value.retry_after, caught.value.heals) == (None, False)


async def test_places_are_counted_and_given_back_whatever_happens() -> None:
    """One at a time; a refused one takes nothing of the minute; one that fails gives its place back."""
    made, _ = books()
    who = caller(concurrent=1, requests_per_minute=10)

    with suppress(ZeroDivisionError):
        async with begun(made, who):
            with pytest.raises(LimitReached, match="1 request under way") as caught:
                await request(made, who)
            assert caught.value.retry_after == 1
            raise ZeroDivisionError

    assert (await request(made, who))["x-ratelimit-remaining-requests"] == "8"


async def test_what_does_not_count_is_told_how_things_stand() -> None:
    """To look at the models costs nothing, even when nothing is left."""
    made, _ = books()
    who = caller(requests_per_minute=1, concurrent=1)
    await request(made, who)

    told = await look(made, who)

    assert told["x-ratelimit-limit-requests"] == "1"
    assert told["x-ratelimit-remaining-requests"] == "0"


async def test_what_is_waived_was_never_charged() -> None:
    """Neither the request nor its pictures; what others used stays used, and nobody gets back more than they had."""
    made, clock = books()
    who = caller(requests_per_minute=2, pictures_per_minute=5)
    await request(made, who, pictures=1)

    async with begun(made, who) as allowance:
        await allowance.take_pictures(3)
        for _ in range(2):
            await allowance.waive()
    told = await look(made, who)
    clock.now += 60 * SECOND
    async with begun(made, who) as allowance:
        clock.now += 60 * SECOND
        await allowance.waive()
    later = await look(made, who)

    assert (told["x-ratelimit-remaining-requests"], told["x-ratelimit-remaining-pictures"]) == ("1", "4")
    assert (later["x-ratelimit-remaining-requests"], later["x-ratelimit-reset-requests"]) == ("2", "0s")


async def test_keys_do_not_share_their_limits() -> None:
    """One that has used its own leaves another's alone, of the same team too."""
    made, _ = books()
    await request(made, caller(requests_per_minute=1))

    assert await request(made, Caller(key_id="other", team="web", requests_per_minute=1))


async def test_who_has_no_limits_is_told_none() -> None:
    """Without keys, and with a key that is not limited."""
    made, _ = books()

    assert await request(made, ANONYMOUS, pictures=1000) == {}
    assert await request(made, caller(), pictures=1000) == {}


async def test_a_limit_that_is_changed_holds_for_the_next_request() -> None:
    """What was used stays used."""
    made, _ = books()
    for _ in range(2):
        await request(made, caller(requests_per_minute=2))

    with pytest.raises(LimitReached):
        await request(made, caller(requests_per_minute=60))
    assert (await made.take(caller(), Wanted(requests=1))).refused is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0004, "1ms"),
        (0.12, "120ms"),
        (0.9995, "1s"),
        (1, "1s"),
        (1.2, "2s"),
        (59.5, "1m0s"),
        (360, "6m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    """Rounded up: who waits so long finds what was promised."""
    assert duration(seconds) == text
