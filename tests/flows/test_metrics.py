"""`/metrics` at the front door: who may read it, and what it says of requests that went through."""

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests import pictures
from tests.flows.keys import section, with_key
from tests.flows.raw import Answer, chat, send
from tests.flows.shared import Fake, ask, begun_and, clients, gateways
from tests.gateway.metrics.reading import lines
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server

CI, ADMIN = (f"ag-{name}{'x' * 40}" for name in ("ci-", "adm"))
KEYS = section("ci", CI, "requests_per_minute = 2") + section("chief", ADMIN, "admin = true")
QUIET = "[engines]\npreload = []\n"


def scraped(server: Server, headers: Mapping[str, str] | None = None) -> Answer:
    """What a scraper gets."""
    return send(server, "GET", "/metrics", headers=headers)


def test_without_keys_everyone_on_the_machine_may_scrape(server: Server) -> None:
    """In the text form, which is what every scraper reads; an answer's way through the engine can be seen in it."""
    before = lines(scraped(server).body)
    picture = [message(data_url(pictures.png(SCENES[177])))]
    for _ in range(2):
        assert chat(server, messages=picture).status == 200
    answer = scraped(server)
    after = lines(answer.body)

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["altgate_requests_total miss demo /chat/completions 200"] == 1
    assert grown["altgate_requests_total hit demo /chat/completions 200"] == 1
    assert grown["altgate_requests_total none  /metrics 200"] == 1
    assert [grown[f"altgate_stage_seconds_count {stage}"] for stage in ("parse", "fetch", "total")] == [2, 2, 2]
    assert [grown[f"altgate_stage_seconds_count {stage}"] for stage in ("queue", "decode", "engine")] == [1, 1, 1]
    assert grown["altgate_pictures_total demo"] == 2
    assert grown["altgate_tokens_total completion demo hit"] == grown["altgate_tokens_total completion demo engine"] > 0
    assert grown["altgate_cache_results_total hit"] == 1
    assert after["altgate_cache_entries"] >= 1
    assert after["altgate_engine_state demo ready"] == 1
    assert after["altgate_engine_load_seconds_count demo"] >= 1
    assert after["altgate_requests_in_flight"] == after["altgate_bytes_in_flight"] == after["altgate_decode_line"] == 0
    assert after["process_resident_memory_bytes"] > 10e6
    assert after["process_cpu_seconds_total"] > 0


@pytest.mark.parametrize(
    "path", ["/wp-login.php", "/v1/%00", "/v1/models/none", "/metrics/x", "/v1/chat/completions/x"]
)
def test_what_clients_make_up_becomes_no_label(server: Server, path: str) -> None:
    """Neither paths, nor names of models, nor methods."""
    before = lines(scraped(server).body).keys()

    send(server, "BREW", path)
    chat(server, model=f"made-up-{path}")
    chat(server, messages=[{"role": path, "content": path}])

    new = lines(scraped(server).body).keys() - before
    assert not [name for name in new if re.search(r"wp-login|%00|\x00|none$|/x|BREW|made-up", name.split(" ", 1)[1])]


def test_with_keys_administrators_alone_may_scrape(tmp_path: Path) -> None:
    """Nobody without a key, nobody with another key; refusals for a key's limits are counted apart."""
    with running_server(tmp_path, settings=QUIET + KEYS) as running:
        for _ in range(4):
            chat(running, with_key(CI), model="none")
        answers = [scraped(running), scraped(running, with_key(CI)), scraped(running, with_key(ADMIN))]

    assert [answer.status for answer in answers] == [401, 403, 200]
    assert answers[1].error["code"] == "admin_key_required"
    read = lines(answers[2].body)
    assert read["altgate_limit_refusals_total requests"] == read["altgate_refusals_total rate_limit_exceeded"] == 2
    assert read["altgate_refusals_total model_not_found"] == 2
    assert read["altgate_refusals_total invalid_api_key"] == 1
    assert "ci" not in {label for name in read for label in name.split(" ")[1:]}


def test_it_can_be_open_to_scrapers_without_a_key(tmp_path: Path) -> None:
    """Where the operator says so, everyone may scrape, and nothing else."""
    with running_server(tmp_path, settings=f'[server]\nmetrics = "open"\n{QUIET}{KEYS}') as running:
        assert scraped(running).status == 200
        assert scraped(running, with_key("ag-wrong")).status == 200
        assert [send(running, "GET", path).status for path in ("/metrics/", "/v1/models", "/admin/cache")] == [401] * 3


async def test_several_workers_are_scraped_as_one(tmp_path: Path) -> None:
    """Whichever of them is asked, what all have counted is added up, and what is one for all stands once."""
    async with (
        Fake().running() as engine,
        gateways(tmp_path, engine, workers=2) as (server,),
        clients() as session,
    ):
        for number in range(8):
            await ask(session, server, messages=[{"role": "user", "content": f"{number}"}])
        scrapes = []
        for _ in range(2):
            async with session.get(f"{server.root}/metrics") as response:
                scrapes.append(lines(await response.read()))

    for read in scrapes:
        assert read["altgate_requests_total miss m /chat/completions 200"] == 8
        assert read["altgate_model_seconds_count m"] == 8
        assert read["altgate_cache_results_total miss"] == 8
        assert read["altgate_info 0.1.0"] == read["altgate_engine_state m ready"] == read["altgate_replica_up m 0"] == 1
        assert read["altgate_engine_state demo stopped"] == 1
        assert read["altgate_engine_restarts_total demo"] == 0
    assert scrapes[1]["process_cpu_seconds_total"] >= scrapes[0]["process_cpu_seconds_total"] > 0


async def test_what_a_worker_has_counted_outlives_it(tmp_path: Path) -> None:
    """A counter that goes back is taken for one that began anew, and all it then has for what has just happened."""
    async with (
        Fake().running() as engine,
        gateways(tmp_path, engine, workers=2, patient=False) as (server,),
        clients() as session,
    ):
        for number in range(8):
            await ask(session, server, messages=[{"role": "user", "content": f"{number}"}])
        before = await scraped_by(session, server)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
            after = await scraped_by(session, server)

    counters = [name for name in before if re.search(r"_(total|count|sum|bucket)\b", name)]
    assert not [name for name in counters if after[name] < before[name]]
    assert after["altgate_requests_total miss m /chat/completions 200"] == 8
    assert after["altgate_info 0.1.0"] == 1
    assert after["altgate_cache_entries"] < before["altgate_cache_entries"]


async def scraped_by(session: aiohttp.ClientSession, server: Server) -> dict[str, float]:
    """What there is to be read, once all workers are there to tell."""
    async with asyncio.timeout(30):
        while True:
            with suppress(aiohttp.ClientError):  # the worker that had the connection is no more
                async with session.get(f"{server.root}/metrics") as response:
                    if response.status == 200:
                        return lines(await response.read())


async def test_a_stream_that_breaks_off_is_counted_as_a_refusal(tmp_path: Path) -> None:
    """Though its status was 200; how the server elsewhere stands can be read as well."""
    async with Fake().running() as engine, gateways(tmp_path, engine) as (server,), clients() as session:
        engine.always = begun_and(b'data: {"error": {"message": "no"}}\n\n')
        await ask(session, server, stream=True)
        async with session.get(f"{server.root}/metrics") as response:
            read = lines(await response.read())

    assert read["altgate_requests_total miss m /chat/completions 200"] == 1
    assert read["altgate_refusals_total engine_error"] == 1
    assert read["altgate_replica_up m 0"] == 1
    assert read["altgate_replica_breaker_open m 0"] == 0
