"""How engines stand and what they have been through is read from them."""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from gateway.engine import Engine
from gateway.metrics.counts import Sample
from gateway.metrics.engines import engine_readings
from tests.flows.test_swapping import stand_ins
from tests.gateway.remote.servers import Fake, serving
from tests.gateway.test_local import request, until


def read(engine: Engine) -> dict[str, tuple[float, ...]]:
    """The readings of an engine, under their names without `altgate_` and their labels but for the model."""
    return by_name(engine_readings("m", engine))


def by_name(samples: Iterable[Sample]) -> dict[str, tuple[float, ...]]:
    """The numbers of samples under their names."""
    return {" ".join([sample.metric.removeprefix("altgate_"), *sample.labels[1:]]): sample.values for sample in samples}


async def test_what_an_engine_has_been_through(tmp_path: Path) -> None:
    """A load, a death, and the swap for which another had to make room."""
    async with stand_ins(tmp_path, ["one", "two"], max_loaded=1) as engines:
        before = read(engines["one"])
        assert await engines["one"].complete(request())
        loaded = read(engines["one"])
        os.kill(engines["one"].process.pid or 0, signal.SIGKILL)
        await until(lambda: engines["one"].process.past.restarts == 1)
        assert await engines["one"].complete(request())
        assert await engines["two"].complete(request())
        one, two = read(engines["one"]), read(engines["two"])

    assert (before["engine_state stopped"], before["engine_restarts_total"]) == ((1,), (0,))
    assert "engine_load_seconds" not in before
    assert (loaded["engine_state ready"], loaded["engine_state stopped"]) == ((1,), (0,))
    assert (loaded["engine_load_seconds"][0], loaded["engine_busy"], loaded["engine_line"]) == (1, (0,), (0,))
    assert "engine_swap_seconds" not in loaded
    assert (one["engine_restarts_total"], one["engine_load_seconds"][0], one["engine_state stopped"]) == ((1,), 2, (1,))
    count, seconds = two["engine_swap_seconds"]
    assert count == 1
    assert seconds >= two["engine_load_seconds"][1] > 0


async def test_who_waits_and_who_is_served_at_an_engine(tmp_path: Path) -> None:
    """While one holds the only place, the other's request is in line."""
    go = tmp_path / "go"
    async with stand_ins(tmp_path, ["one", "two"], f"--go={go}", max_loaded=1) as engines:
        slow = asyncio.create_task(engines["one"].complete(request("slow")))
        await until(lambda: read(engines["one"])["engine_busy"] == (1,))
        waiting = asyncio.create_task(engines["two"].complete(request()))
        await until(lambda: read(engines["two"])["engine_line"] == (1,))
        go.touch()
        await asyncio.gather(slow, waiting)


async def test_how_servers_elsewhere_stand() -> None:
    """Whether each answers, is trusted, and how much it has to do; they are named by their place, not by their URL."""
    async with Fake().running() as one, Fake().running() as other, serving(one, other) as engine:
        well = read(engine)
        replica = engine.replicas[0]
        for _ in range(5):
            replica.breaker.end(replica.breaker.begin(), verdict=False, now=time.monotonic())
        other.models_status = 500
        engine.replicas[1].doubted.set()
        await until(lambda: engine.replicas[1].trouble is not None)
        ill = read(engine)

    assert [well[f"replica_{what} 0"] for what in ("up", "breaker_open", "busy")] == [(1,), (0,), (0,)]
    assert [ill[f"replica_{what} {place}"] for place in "01" for what in ("up", "breaker_open")] == [
        (1,),
        (1,),
        (0,),
        (0,),
    ]
