"""Room that is shared out: who gets a place at once, who waits, and what the slow leave to the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.images.places import NoPlaceError, Places, Room, domain_of, for_team


@asynccontextmanager
async def held(places: Places, hosts: Sequence[str], team: str = "team") -> AsyncIterator[int]:
    """Holds a place for each of the hosts that gets one at once, for a team; how many did."""
    async with AsyncExitStack() as stack:
        count = 0
        for host in hosts:
            for_team.set(team)
            try:
                await stack.enter_async_context(places.place(host, patience=0))
            except NoPlaceError:
                continue
            count += 1
        yield count


async def test_a_domain_has_a_part_of_them() -> None:
    """Whatever its hosts are called; and all of it comes back."""
    places = Places(128)
    async with held(places, [f"{number}.slow.example" for number in range(50)]) as count:
        assert (count, places.left) == (8, 120)
        async with held(places, ["slow.example", "fast.example", "slow.test"]) as others:
            assert others == 2
    assert places.left == 128
    assert not places._domains


async def test_the_slow_leave_some_to_those_who_come() -> None:
    """The more slow domains there are, the fewer places has each; and one more finds some, until there are dozens."""
    places = Places(128)
    async with AsyncExitStack() as stack:
        counts: list[int] = []
        while not counts or counts[-1]:
            hosts = [f"{host}.slow{len(counts)}.example" for host in range(64)]
            counts.append(await stack.enter_async_context(held(places, hosts)))
        assert sorted(counts, reverse=True) == counts
        assert len(counts) > 20
        assert places.left == 64  # for other teams


async def test_a_team_leaves_as_much_as_it_takes() -> None:
    """However many domains it asks for: the next team gets half of what is left, and so on."""
    places = Places(64)
    many = [f"{number}.example{number}" for number in range(128)]
    async with (
        held(places, many[:64], "one") as ones,
        held(places, many[64:], "two") as twos,
        held(places, ["good.example"], "three") as threes,
    ):
        assert (ones, twos, threes) == (32, 16, 1)


async def test_those_who_need_no_key_have_all_of_them() -> None:
    """There is no other team that some could be left to, of places or of bytes; a domain has its part of them only."""
    places, room = Places(64), Room(64)
    many = [f"{number}.example{number}" for number in range(128)]
    async with held(places, many, "") as count:
        assert (count, places.left) == (64, 0)
    async with held(places, [f"{number}.slow.example" for number in range(64)], "") as count:
        assert count == 8
    for_team.set("")
    with room.admitted() as one, room.admitted() as two:
        one(40)
        two(24)
        assert room.left == 0


async def test_one_teams_slow_domain_is_no_other_teams() -> None:
    """What one of them waits for, another may ask for all the same."""
    places = Places(64)
    hosts = [f"{number}.slow.example" for number in range(64)]
    async with held(places, hosts, "one") as ones, held(places, hosts, "two") as twos:
        assert (ones, twos) == (4, 4)


async def test_whoever_waits_is_served_in_turn() -> None:
    """But for those whose part is taken: they hold nobody up."""
    places, order = Places(3), []

    async def work(name: str, host: str, done: asyncio.Event) -> None:
        async with places.place(host, patience=30):
            order.append(name)
            await done.wait()

    first, second = asyncio.Event(), asyncio.Event()
    names = [("a", "slow.example", first), ("b", "slow.example", second), ("c", "fast.example", second)]
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(work(*name)))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["a", "c"]
    first.set()
    while len(order) < 3:
        await asyncio.sleep(0)
    second.set()
    await asyncio.gather(*tasks)
    assert (order, places.left) == (["a", "c", "b"], 3)


async def test_who_waits_too_long_is_told() -> None:
    """And is out of the line."""
    places = Places(3)
    async with places.place("a", patience=1):
        with pytest.raises(NoPlaceError):
            async with places.place("a", patience=0.01):
                pass
        assert not places._line
    assert places.left == 3


async def test_who_stops_waiting_takes_no_place() -> None:
    """Nor leaves one behind, not even when it came in the same moment."""
    places = Places(3)

    async def take() -> None:
        async with places.place("a", patience=5):
            await asyncio.Event().wait()

    holder, *waiting = [asyncio.create_task(take()) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    holder.cancel()
    await asyncio.sleep(0)  # now the first who waits has got the place, and not noticed yet
    for each in waiting:
        each.cancel()
    await asyncio.wait([holder, *waiting])
    assert (places.left, len(places._line)) == (3, 0)
    async with places.place("a", patience=1):
        assert places.left == 2


async def test_teams_and_domains_take_turns() -> None:
    """Who asks for much waits behind its own, not before all others."""
    places, order = Places(1), []

    async def work(team: str, host: str) -> None:
        for_team.set(team)
        async with places.place(host, patience=30):
            order.append(f"{team} {host}")
            await asyncio.sleep(0)

    crowd = [("one", "a.example")] * 3 + [("one", "b.example")] * 2 + [("two", "a.example")]
    await asyncio.gather(*(work(*who) for who in crowd))
    expected = ["one a", "one a", "two a", "one b", "one a", "one b"]
    assert order == [f"{who}.example" for who in expected]


@pytest.mark.parametrize("domains", [1, 5000])
async def test_however_many_wait_it_costs_no_time(domains: int) -> None:
    """Thousands come, are served and give up, of one domain or of as many: each takes as long as if it were alone."""
    places = Places(64)

    async def work(number: int) -> None:
        with suppress(NoPlaceError):
            async with places.place(f"slow{number % domains}.example", patience=0.5):
                await asyncio.sleep(0.05)

    began = time.process_time()
    await asyncio.gather(*(work(number) for number in range(5000)))
    assert time.process_time() - began < 3  # under half a second; were all looked at for each, ten
    assert (places.left, len(places._line)) == (64, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz")) | st.integers(0, 23), max_size=80))
def test_nobody_holds_more_than_is_left(steps: list[tuple[str, str] | int]) -> None:
    """Whatever comes and goes: who is refused has its part, and every place is counted once."""

    async def walk() -> None:
        places = Places(24)
        taken: list[AbstractAsyncContextManager[None]] = []
        for step in steps:
            if isinstance(step, int):
                if step < len(taken):
                    await taken.pop(step).__aexit__(None, None, None)
            elif place := await taken_at_once(places, *step):
                taken.append(place)
            sums = sum(places._domains.values()), sum(places._teams.values())
            assert sums == (len(taken), len(taken))
            assert places.left == 24 - len(taken)

    asyncio.run(walk())


async def taken_at_once(places: Places, host: str, team: str) -> AbstractAsyncContextManager[None] | None:
    """A place, None where there is none for them."""
    for_team.set(team)
    fits, place = places.fits(team, host), places.place(host, patience=0)
    try:
        await place.__aenter__()
    except NoPlaceError:
        assert not fits
        return None
    assert fits
    assert places._teams[team] <= places.left + 1
    return place


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("a.b.example.com", "example.com"),
        ("example.com.", "example.com"),
        ("com", "com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.com.au.", "example.com.au"),
        ("co.uk", "co.uk"),
        ("a.example.co", "example.co"),
        ("a.net.example", "net.example"),
        ("93.184.215.14", "93.184.215.14"),
        ("2606:4700::1", "2606:4700::1"),
    ],
)
def test_what_belongs_together(host: str, domain: str) -> None:
    """Names that end alike, and each address by itself."""
    assert domain_of(host) == domain


def test_a_team_holds_no_more_bytes_than_are_left() -> None:
    """However many pieces they come in; what is alone always fits, and all of it comes back."""
    room, most = Room(64), []
    with ExitStack() as stack:
        holds = []
        for team in ("one", "two", "three"):
            for_team.set(team)
            holds.append(stack.enter_context(room.admitted()))
            holds[-1](1)
            stack.enter_context(room.admitted())(1)
        for hold in holds:
            most.append(2)
            with suppress(NoPlaceError):
                while True:
                    hold(1)
                    most[-1] += 1
    assert most == [30, 16, 9]
    assert (room.left, room._teams) == (64, {})
    with room.admitted() as hold:
        hold(100)
    assert room.left == 64
