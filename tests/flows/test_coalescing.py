"""Identical requests under way share one generation, in one gateway and across several."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.flows.keys import section, with_key
from tests.flows.shared import Fake, Told, ask, clients, echo, gateways
from tests.gateway.remote.servers import COMPLETION, body, status
from tests.services import Server, running_redis

FRESH = {"cache-control": "no-store"}


@pytest.fixture
async def engine() -> AsyncIterator[Fake]:
    """An engine that waits in the middle of its answer until it is told to go on."""
    async with Fake().running() as running:
        running.always = echo(running, waits=True)
        yield running


async def so_many(told: asyncio.Semaphore, count: int) -> None:
    """Returns when it has been told so often."""
    async with asyncio.timeout(60):
        for _ in range(count):
            await told.acquire()


async def a_thousand(servers: list[Server], engine: Fake, *, beginnings: int) -> list[Told]:
    """A thousand identical requests to those gateways in turn, half of them streamed.

    The engine ends its answer when so many of the streams have been given its beginning.
    """
    begun = asyncio.Semaphore(0)
    async with clients(begun=begun) as session:

        def asked(number: int) -> "asyncio.Task[Told]":
            return asyncio.ensure_future(ask(session, servers[number % len(servers)], stream=number % 4 < 2))

        tasks = [asked(0)]
        await engine.begun.wait()
        tasks += [asked(number) for number in range(1, 1_000)]
        await so_many(begun, beginnings)
        engine.go.set()
        return await asyncio.gather(*tasks)


async def test_a_thousand_identical_requests_are_one_generation(tmp_path: Path, engine: Fake) -> None:
    """Streamed and whole alike, each an answer of its own: one was made, the others joined it or found it."""
    async with gateways(tmp_path, engine) as servers:
        told = await a_thousand(servers, engine, beginnings=500)

    assert len(engine.requests) == 1
    assert {(each.status, each.words) for each in told} == {(200, "hello")}
    assert len({each.id for each in told}) == 1_000
    cached = Counter(each.cache for each in told)
    assert cached["miss"] == 1
    assert cached["join"] >= 499
    assert cached.keys() <= {"miss", "join", "hit"}


async def test_a_thousand_identical_requests_to_two_gateways_are_one_generation(tmp_path: Path, engine: Fake) -> None:
    """With one Redis behind them: one gateway makes the answer, the other waits for it."""
    with running_redis(tmp_path) as redis:
        async with gateways(tmp_path, engine, 2, cache=f'redis = "{redis.url}"') as servers:
            told = await a_thousand(servers, engine, beginnings=250)

    assert len(engine.requests) == 1
    assert {(each.status, each.words) for each in told} == {(200, "hello")}
    assert Counter(each.cache for each in told)["miss"] == 1


async def test_who_comes_late_to_a_stream_hears_it_from_the_beginning(tmp_path: Path, engine: Fake) -> None:
    """While it is being made, and not only when it is over."""
    async with gateways(tmp_path, engine) as (server,), clients() as session:
        fields = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        url = f"{server.base_url}/chat/completions"
        async with session.post(url, json=fields) as first, asyncio.timeout(30):
            beginning = await first.content.readuntil(b'"he"')
            async with session.post(url, json=fields) as late:
                assert b'"he"' in await late.content.readuntil(b'"he"')
                assert late.headers["x-altgate-cache"] == "join"
                engine.go.set()
                rest = [await each.content.read() for each in (first, late)]

    assert b'"he"' in beginning
    assert all(b'"llo"' in each and each.endswith(b"data: [DONE]\n\n") for each in rest)
    assert len(engine.requests) == 1


async def test_whoever_joins_hears_that_work_goes_on(tmp_path: Path, engine: Fake) -> None:
    """A stream that has joined a whole answer has nothing to say yet, and says so as often as any other."""
    sent = asyncio.Semaphore(0)
    settings = '[server]\nmax_requests = 10\nheartbeat = "100ms"\n'
    async with gateways(tmp_path, engine, server=settings) as (server,), clients(sent=sent) as session:
        whole = asyncio.ensure_future(ask(session, server))
        await engine.begun.wait()
        fields = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        async with session.post(f"{server.base_url}/chat/completions", json=fields) as joined, asyncio.timeout(30):
            for _ in range(3):
                assert await joined.content.readuntil(b"\n\n") == b": still working\n\n"
            engine.go.set()
            rest = await joined.content.read()

    assert b'"hello"' in rest
    assert (await whole).words == "hello"
    assert len(engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_who_leaves_hands_over_and_the_last_ends_it(tmp_path: Path, engine: Fake, stream: bool) -> None:
    """The engine goes on for the second, and stops when that one leaves too."""
    sent = asyncio.Semaphore(0)
    async with gateways(tmp_path, engine) as (server,), clients(sent=sent) as session:
        first = asyncio.ensure_future(ask(session, server, stream=stream))
        await engine.begun.wait()
        others = [asyncio.ensure_future(ask(session, server, stream=each)) for each in (False, True)]
        await so_many(sent, 3)
        first.cancel()
        engine.go.set()
        assert {(each.status, each.words) for each in await asyncio.gather(*others)} == {(200, "hello")}
        assert len(engine.requests) == 1

        engine.go.clear()
        engine.begun.clear()
        leaving = [asyncio.ensure_future(ask(session, server, stream=stream, seed=1)) for _ in range(2)]
        await engine.begun.wait()
        assert not engine.left.is_set()
        for each in leaving:
            each.cancel()
        async with asyncio.timeout(20):
            await engine.left.wait()


@pytest.mark.parametrize("workers", [1, 2], ids=["gateways", "workers"])
async def test_what_is_under_way_when_the_cache_is_cleared_is_kept_nowhere(
    tmp_path: Path, engine: Fake, workers: int
) -> None:
    """Who waits for it still has it; who asks later, at either of two gateways or of two workers, is given another one,
    and that one is kept."""

    async def numbered(_: web.Request) -> web.StreamResponse:
        words = f"answer {len(engine.requests)}"
        engine.begun.set()
        await engine.go.wait()
        choice = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}
        return web.json_response(COMPLETION | {"choices": [choice]})

    engine.always = numbered
    keys = section("ann", "k1") + section("root", "k2", "admin = true")
    with running_redis(tmp_path) as redis:
        cache = f'redis = "{redis.url}"' if workers == 1 else ""
        async with (
            gateways(tmp_path, engine, 3 - workers, workers=workers, cache=cache, settings=keys) as servers,
            clients() as session,
        ):
            one, other = servers[0], servers[-1]
            early = asyncio.ensure_future(ask(session, one, with_key("k1")))
            await engine.begun.wait()
            waiting = asyncio.ensure_future(ask(session, other, with_key("k1")))
            async with session.delete(f"{one.root}/admin/cache?model=m", headers=with_key("k2")) as cleared:
                amounts = await cleared.json()
                assert (cleared.status, (amounts["redis"] or amounts["memory"])["complete"]) == (200, True)
            late = [asyncio.ensure_future(ask(session, one, with_key("k1"))) for _ in range(2)]
            engine.go.set()
            told = await waiting
            words = {each.words for each in await asyncio.gather(*late)}
            found = [await ask(session, server, with_key("k1")) for server in (other, one)]

    assert (await early).words == "answer 1"
    assert "answer 1" not in words | {each.words for each in found}
    assert told.words != "answer 1" or workers > 1  # of two workers it may have come to the one that made it
    assert [each.cache for each in found] == ["hit", "hit"]


async def test_two_teams_with_one_body_are_two_generations(tmp_path: Path, engine: Fake) -> None:
    """Neither under way nor kept is one team's answer another's, whatever the body says of itself."""
    engine.go.set()
    keys = section("ann", "k1", 'team = "a"') + section("bob", "k2", 'team = "b"') + section("al", "k3", 'team = "a"')
    async with gateways(tmp_path, engine, settings=keys) as (server,), clients() as session:
        together = [
            asyncio.ensure_future(ask(session, server, with_key(key), user="a", team="a", scope="a"))
            for key in ("k1", "k2", "k3") * 20
        ]
        assert {each.words for each in await asyncio.gather(*together)} == {"hello"}
        assert len(engine.requests) == 2

        later = [await ask(session, server, with_key(key), seed=1) for key in ("k1", "k2", "k3")]

    assert [each.cache for each in later] == ["miss", "miss", "hit"]


@pytest.mark.parametrize("cache", ["", "share_across_teams = true"])
async def test_what_vllm_remembers_is_kept_apart_as_well(tmp_path: Path, engine: Fake, cache: str) -> None:
    """Each team's requests have a salt of their own, whatever a client writes there, and a team's are alike."""
    engine.go.set()
    engine.models = {"data": [{"id": "theirs", "owned_by": "vllm"}]}
    keys = section("ann", "k1", 'team = "a"') + section("bob", "k2", 'team = "b"') + section("al", "k3", 'team = "a"')
    async with gateways(tmp_path, engine, cache=cache, settings=keys) as (server,), clients() as session:
        for key in ("k1", "k2", "k3"):
            await ask(session, server, with_key(key) | FRESH, cache_salt="mine")
    salts = [body.get("cache_salt") for _, body in engine.requests]

    if cache:
        assert salts == [None, None, None]
    else:
        assert salts[0] == salts[2] != salts[1]
        assert {None, "mine", "a", "b"}.isdisjoint(salts)


async def test_teams_share_when_they_are_told_to(tmp_path: Path, engine: Fake) -> None:
    """One setting, for those whose teams are one house."""
    engine.go.set()
    keys = section("ann", "k1") + section("bob", "k2")
    async with (
        gateways(tmp_path, engine, cache="share_across_teams = true", settings=keys) as (server,),
        clients() as session,
    ):
        told = [await ask(session, server, with_key(key)) for key in ("k1", "k2")]

    assert [each.cache for each in told] == ["miss", "hit"]


@pytest.mark.parametrize(
    ("headers", "fields"),
    [(FRESH, {}), ({"cache-control": "no-cache"}, {}), ({}, {"temperature": 1})],
    ids=["no-store", "no-cache", "sampling"],
)
async def test_who_wants_an_answer_of_its_own_has_one(
    tmp_path: Path, engine: Fake, headers: dict[str, str], fields: dict[str, object]
) -> None:
    """Also while another just like it is being made."""
    async with gateways(tmp_path, engine) as (server,), clients() as session:
        tasks = [asyncio.ensure_future(ask(session, server, headers, **fields)) for _ in range(3)]
        async with asyncio.timeout(30):
            while len(engine.requests) < 3:
                await asyncio.sleep(0.01)
        engine.go.set()

        assert [each.cache for each in await asyncio.gather(*tasks)] == ["bypass"] * 3


@pytest.mark.parametrize(
    ("answers", "status_", "generations"),
    [([body("<html>")], 200, 2), ([body("<html>")] * 3, 502, 2), ([status(400)], 400, 1)],
    ids=["garbage once", "garbage", "refused"],
)
async def test_a_failure_is_shared_and_tried_again_once(
    tmp_path: Path, engine: Fake, answers: list[object], status_: int, generations: int
) -> None:
    """A hundred who share a failure are no storm of a hundred retries."""
    waiting = echo(engine, waits=True)

    async def fails(request: object) -> object:
        await engine.go.wait()
        return await answers.pop(0)(request) if answers else await waiting(request)  # type: ignore[operator, arg-type]

    engine.always = fails  # type: ignore[assignment]
    sent = asyncio.Semaphore(0)
    async with gateways(tmp_path, engine) as (server,), clients(sent=sent) as session:
        tasks = [asyncio.ensure_future(ask(session, server)) for _ in range(100)]
        await so_many(sent, 100)
        # The last of those sent may not have been read yet; whoever comes when it is over would ask anew.
        await ask(session, server, {"cache-control": "only-if-cached"})
        engine.go.set()
        told = await asyncio.gather(*tasks)

    assert {each.status for each in told} == {status_}
    assert len(engine.requests) == generations


async def test_a_gateway_that_is_killed_costs_the_other_the_lease(tmp_path: Path, engine: Fake) -> None:
    """It dies in the middle of making the answer; the one that waits for it makes it instead."""
    with running_redis(tmp_path) as redis:
        async with (
            gateways(tmp_path, engine, 2, cache=f'redis = "{redis.url}"') as (first, other),
            clients() as session,
        ):
            lost = asyncio.ensure_future(ask(session, first))
            await engine.begun.wait()
            waiting = asyncio.ensure_future(ask(session, other))
            first.process.kill()
            engine.go.set()
            async with asyncio.timeout(30):
                told = await waiting
            await asyncio.gather(lost, return_exceptions=True)

    assert (told.status, told.words, told.cache) == (200, "hello", "miss")
    assert len(engine.requests) == 2
