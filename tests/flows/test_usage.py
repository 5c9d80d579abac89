"""What was used, as it is told: over HTTP and on the command line, of every way a request can go."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway import wire
from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.raw import Answer, send
from tests.flows.shared import ask, clients, gateways
from tests.gateway.remote.servers import COMPLETION, Fake, begun_and, status
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_redis

ROOT = Path(__file__).parents[2]
KEYS = section("ann", "k1", 'team = "a"') + section("bob", "k2", 'team = "b"') + section("root", "k3", "admin = true")
PRICE = "[models.m.price]\npictures = 1.5\nprompt_tokens = 0.02\ncompletion_tokens = 0.080001\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "prompt_tokens_details": {"image_tokens": 4}}
PNG = data_url(pictures.png(SCENES[0]))
TODAY = datetime.now(UTC).date()


@pytest.fixture
async def engine() -> AsyncIterator[Fake]:
    """An engine elsewhere that says what it used."""
    async with Fake().running() as fake:
        fake.always = metered(fake)
        yield fake


def metered(fake: Fake, *, waits: bool = False) -> Any:
    """Answers with the preset's object and with usage; waits for `go` in the middle if told to."""

    async def answer(request: web.Request) -> web.StreamResponse:
        fake.begun.set()
        asked = wire.decode_request(await request.read())
        words = '{"alt_text": "a cat"}'
        if waits and not asked.stream:
            await fake.go.wait()
        if not asked.stream:
            message = {"role": "assistant", "content": words}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(COMPLETION | {"choices": [choice], "usage": USAGE})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(event(delta={"role": "assistant", "content": "a"}))
        if waits:
            await fake.go.wait()
        await response.write(event(delta={"content": " cat"}, finish_reason="stop") + event(usage=USAGE) + wire.DONE)
        return response

    return answer


def event(usage: Mapping[str, object] | None = None, **choice: object) -> bytes:
    """One event of a stream, with something of an answer or with the usage."""
    choices = [{"index": 0, "finish_reason": None} | choice] if choice else []
    return b"data: " + json.dumps({"choices": choices, "usage": usage}).encode() + b"\n\n"


def used(gateway: Server, query: str = "", key: str = "k3") -> Answer:
    """What the gateway says of its usage."""
    return send(gateway, "GET", f"/admin/usage{query}", headers=with_key(key))


async def rows(gateway: Server, by: str = "key,model") -> dict[str, dict[str, Any]]:
    """The rows by their names, in each what is not zero."""
    answer = await asyncio.to_thread(used, gateway, f"?by={by}")
    assert answer.status == 200, answer.body
    names = by.split(",")
    found = {" ".join(row[name] for name in names): row for row in answer.json()["rows"]}
    zero = (0, "0")
    return {
        name: {field: value for field, value in row.items() if field not in names and value not in zero}
        for name, row in found.items()
    }


async def test_each_request_counts_for_what_it_was(tmp_path: Path, engine: Fake) -> None:
    """Whole, streamed, kept, under a preset, refused, failed or left in the middle: each as what it is, and once."""
    settings = f'[usage]\npath = "{tmp_path}/u"\ncurrency = "EUR"\n{PRICE}{KEYS}'
    ann, bob = with_key("k1"), with_key("k2")
    picture = {"messages": [message(PNG)]}
    async with gateways(tmp_path, engine, settings=settings) as (gateway,), clients() as session:
        for _ in range(3):  # one is made, two are kept
            await ask(session, gateway, ann, **picture)
        await ask(session, gateway, ann, **picture, model="m:alt_text")
        await ask(session, gateway, ann, stream=True)  # without asking for the usage
        await ask(session, gateway, ann, stream=True, temperature=1, stream_options={"include_usage": True})
        await ask(session, gateway, ann, model="nothing")
        await asyncio.to_thread(send, gateway, "POST", "//v1//chat/completions/", "{}", ann)  # which is served, too
        await ask(session, gateway, with_key("nobody's"))
        engine.answers = [
            status(500),
            begun_and(b'data: {"error": {"message": "no"}}\n\n'),
            begun_and(b"data: [DONE]\n\n"),
        ]
        await ask(session, gateway, bob, messages=[{"role": "user", "content": "fails"}])
        await ask(session, gateway, bob, messages=[{"role": "user", "content": "fails midway"}], stream=True)
        await ask(session, gateway, bob, messages=[{"role": "user", "content": "says nothing of tokens"}], stream=True)
        await session.get(f"{gateway.base_url}/models", headers=bob)

        found = await rows(gateway)

    picture_cost, words_cost = 1_500_000 + 10 * 20_000 + 3 * 80_001, 10 * 20_000 + 3 * 80_001
    assert found["ann m"].pop("saved_seconds") >= 0
    assert found == {
        "ann m": {
            "requests": 6,
            "pictures": 4,
            "prompt_tokens": 60,
            "completion_tokens": 18,
            "picture_tokens": 24,
            "hits": 2,
            "saved_tokens": 26,
            "cost": money(2 * picture_cost + 2 * words_cost),
            "saved_cost": money(2 * picture_cost),
        },
        "ann -": {"failed": 2},
        "bob m": {"requests": 1, "failed": 2, "unmetered": 1},
    }


def money(billionths: int) -> str:
    """As it is told."""
    return f"{billionths / 10**9:.9f}".rstrip("0")


async def begun(session: aiohttp.ClientSession, gateway: Server, key: str) -> aiohttp.ClientResponse:
    """A streamed answer of which the first words have come."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    response = await session.post(f"{gateway.base_url}/chat/completions", json=asked, headers=with_key(key))
    assert b'"a"' in await response.content.readuntil(b"\n\n")
    return response


async def test_nonsense_from_an_engine_is_no_amount(tmp_path: Path, engine: Fake) -> None:
    """An answer whose tokens cannot be counted is one whose tokens nobody knows; what comes after it is counted."""
    settings = f'[usage]\npath = "{tmp_path}/u"\n{PRICE}{KEYS}'
    odd = {"prompt_tokens": 2**62, "completion_tokens": -5, "prompt_tokens_details": {"image_tokens": 2**62}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    engine.answers = [lambda _: _json(COMPLETION | {"choices": [choice], "usage": odd})]
    async with gateways(tmp_path, engine, settings=settings) as (gateway,), clients() as session:
        assert (await ask(session, gateway, with_key("k1"))).status == 200
        await ask(session, gateway, with_key("k2"), messages=[{"role": "user", "content": "another"}])
        found = await rows(gateway)

    assert found["ann m"] == {"requests": 1, "unmetered": 1}
    assert (found["bob m"]["requests"], found["bob m"]["prompt_tokens"]) == (1, 10)


async def _json(answer: Mapping[str, object]) -> web.Response:
    return web.json_response(answer)


async def test_who_shares_an_answer_saves_it(tmp_path: Path, engine: Fake) -> None:
    """One of them pays for it; if the one who asked first leaves, it is another, never nobody and never two."""
    engine.always = metered(engine, waits=True)
    settings = f'[usage]\npath = "{tmp_path}/u"\n{PRICE}{KEYS}'
    async with gateways(tmp_path, engine, settings=settings) as (gateway,), clients() as session:
        first, *sharers = [await begun(session, gateway, "k1") for _ in range(4)]
        first.close()
        async with asyncio.timeout(20):
            while (await rows(gateway)).get("ann m", {}).get("unmetered") != 1:
                await asyncio.sleep(0.01)
        engine.go.set()
        assert all([b"[DONE]" in await sharer.read() for sharer in sharers])
        found = (await rows(gateway))["ann m"]

    assert len(engine.requests) == 1
    assert (found["requests"], found["joins"], found["unmetered"]) == (4, 3, 1)
    assert (found["prompt_tokens"], found["saved_tokens"]) == (30, 26)
    assert float(found["saved_cost"]) == pytest.approx(2 * float(found["cost"]))


async def test_what_was_used_outlives_the_gateway(tmp_path: Path, engine: Fake) -> None:
    """Stopped under load, workers have counted each answer that a client has; killed, one has what it had written."""
    settings = f'[usage]\npath = "{tmp_path}/u"\n{KEYS}'
    answered = 0

    async def use(session: aiohttp.ClientSession, gateway: Server, number: int) -> None:
        nonlocal answered
        words = [{"role": "user", "content": str(number)}]
        asked = {"model": "m", "messages": words}
        url = f"{gateway.base_url}/chat/completions"
        async with session.post(url, json=asked, headers=with_key("k1")) as response:
            answered += bool(await response.read()) and response.status == 200

    async with clients() as session:
        (tmp_path / "stopped").mkdir()
        async with gateways(tmp_path / "stopped", engine, workers=2, settings=settings) as (gateway,):
            uses = [asyncio.create_task(use(session, gateway, number)) for number in range(60)]
            while answered < 20:
                await asyncio.sleep(0.001)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*uses, return_exceptions=True)
        (tmp_path / "killed").mkdir()
        async with gateways(tmp_path / "killed", engine, settings=settings) as (gateway,):
            assert (await rows(gateway))["ann m"]["requests"] == answered
            await asyncio.gather(*(use(session, gateway, number) for number in range(20)))
            seen = (await rows(gateway))["ann m"]["requests"]
            gateway.process.kill()
    (tmp_path / "last").mkdir()
    async with gateways(tmp_path / "last", engine, settings=settings) as (gateway,):
        assert (await rows(gateway))["ann m"]["requests"] == seen == answered


async def test_gateways_with_one_redis_add_up(tmp_path: Path, engine: Fake) -> None:
    """Also what was used while it was away; that is not told until it is back, and then nothing is missing."""
    with running_redis(tmp_path) as store:
        cache, settings = f'redis = "{store.url}"', f"[usage]\n{KEYS}"
        async with (
            gateways(tmp_path, engine, 2, cache=cache, settings=settings, patient=False) as both,
            clients() as session,
        ):
            for gateway in both:
                await ask(session, gateway, with_key("k1"), temperature=1)
            store.signal(signal.SIGSTOP)
            for gateway in both:
                await ask(session, gateway, with_key("k2"), temperature=1)
            away = await asyncio.to_thread(used, both[0])
            store.signal(signal.SIGCONT)
            await all_told(both, {"ann m": 2, "bob m": 2})

            assert (away.status, away.error["code"]) == (503, "usage_unavailable")
            assert used(both[0]).json()["kept"] == "redis"


async def all_told(gateways: list[Server], requests: Mapping[str, int]) -> None:
    """Returns when each gateway says so."""
    async with asyncio.timeout(20):
        for gateway in gateways:
            while True:
                answer = await asyncio.to_thread(used, gateway, "?by=key,model")
                found = answer.json().get("rows", [])
                if {f"{row['key']} {row['model']}": row["requests"] for row in found} == requests:
                    break
                await asyncio.sleep(0.02)


async def test_it_is_told_to_administrators_as_they_ask(tmp_path: Path, engine: Fake) -> None:
    """Of some days, keys, teams and models, told apart as wanted; what cannot be meant is refused by its name."""
    settings = f'[usage]\npath = "{tmp_path}/u"\n{KEYS}'
    async with gateways(tmp_path, engine, settings=settings) as (gateway,), clients() as session:
        for key in ("k1", "k2", "k2"):
            await ask(session, gateway, with_key(key))
        whole = (await asyncio.to_thread(used, gateway)).json()
        of_team = (await asyncio.to_thread(used, gateway, "?team=b&by=day")).json()
        of_nobody = (await asyncio.to_thread(used, gateway, "?key=an&model=m")).json()
        past = (await asyncio.to_thread(used, gateway, f"?to={TODAY - timedelta(days=2)}")).json()
        twice = await asyncio.to_thread(used, gateway, "?key=ann&key=bob")
        slip = await asyncio.to_thread(used, gateway, "?from=yesterday")
        forbidden = [(await asyncio.to_thread(used, gateway, "", key)).status for key in ("k1", "nobody's")]
        printed = await asyncio.to_thread(command, gateway, "--by", "team,model", "--from", str(TODAY))
        as_csv = await asyncio.to_thread(command, gateway, "--csv", "--key-name", "bob")
        refused = await asyncio.to_thread(command, gateway, "--by", "hour")
        barred = await asyncio.to_thread(command, gateway, key="k2")

    assert (whole["object"], whole["time_zone"], whole["kept"], whole["currency"]) == ("usage", "UTC", "disk", None)
    assert [(row["key"], row["team"], row["model"]) for row in whole["rows"]] == [("ann", "a", "m"), ("bob", "b", "m")]
    assert whole["total"]["requests"] == 3
    assert [(row.keys() & {"day", "key", "team", "model"}, row["requests"]) for row in of_team["rows"]] == [
        ({"day"}, 2)
    ]
    assert of_nobody["rows"] == past["rows"] == []
    assert (twice.status, twice.error["param"]) == (400, "key")
    assert (slip.status, slip.error["param"]) == (400, "from")
    assert forbidden == [403, 401]
    assert [line.split()[:4] for line in printed.stdout.splitlines()[1:4]] == [
        ["a", "m", "1", "0"], ["b", "m", "2", "0"], ["total", "3", "0", "0"],
    ]  # fmt: skip
    assert as_csv.stdout.splitlines()[1].startswith("bob,b,m,2,0,")
    assert (refused.returncode, "'by'" in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)
    assert (barred.returncode, "administrator" in barred.stderr) == (1, True)


def command(gateway: Server, *arguments: str, key: str = "k3") -> "subprocess.CompletedProcess[str]":
    """What `altgate usage` prints, and how it ends."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "usage", "--url", gateway.root, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ALTGATE_KEY": key},
    )
