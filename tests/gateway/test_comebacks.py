"""How a supervised process dies, rests, sleeps and comes back, with real children."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from gateway.errors import EngineUnavailable
from gateway.life import Health, Nap, State
from gateway.process import Process
from tests.gateway.test_process import FOREVER, process, replaced, until


async def killed(child: Process) -> None:
    """Kills the child, and returns when another is ready in its place."""
    assert child.pid is not None
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await replaced(child, first)


async def test_a_child_that_dies_is_started_again() -> None:
    """Its death needs nobody's request to be mended, and a request in between waits for the new one."""
    async with process(FOREVER) as child:
        await child.ensure_ready(30)

        await killed(child)

        assert Path(f"/proc/{child.pid}").exists()


async def test_one_that_dies_again_and_again_is_started_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time at once, then after pauses that double; who asks meanwhile waits for it."""
    monkeypatch.setattr("gateway.process.FIRST_PAUSE", 0.1)
    took: list[float] = []
    async with process(FOREVER) as child:
        await child.ensure_ready(30)
        for _ in range(4):
            before = time.monotonic()
            await killed(child)
            took.append(time.monotonic() - before)
        os.kill(child.pid or 0, signal.SIGKILL)
        await until(lambda: child.state is not State.READY)
        await child.ensure_ready(30)

    assert [seconds >= 0.75 * 0.1 * 2**number for number, seconds in enumerate(took)][1:] == [True] * 3


async def test_one_that_lived_for_long_is_started_at_once_when_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its earlier failures are forgotten."""
    monkeypatch.setattr("gateway.process.FIRST_PAUSE", 1000.0)
    monkeypatch.setattr("gateway.process.LONGEST_PAUSE", 1000.0)
    monkeypatch.setattr("gateway.process.STEADY_AFTER", 0.0)
    async with process(FOREVER) as child:
        await child.ensure_ready(30)

        for _ in range(3):
            await killed(child)


async def test_it_rests_and_is_started_again_when_it_is_wanted() -> None:
    """Told to rest, its child ends properly; the next who asks gets another one."""
    async with process(FOREVER) as child:
        await child.ensure_ready(30)
        first = child.pid
        child.rest()
        await until(lambda: child.state is State.STOPPED)
        assert child.pid is None

        await child.ensure_ready(30)

        assert child.pid not in (None, first)


async def test_one_that_dies_when_it_is_to_rest_is_not_started_again() -> None:
    """Nobody wants it, so its death is what was asked for."""
    answering = asyncio.Event()
    answering.set()

    async def probe() -> Health:
        await answering.wait()
        return Health(ready=True)

    async with process(FOREVER, probe) as child:
        await child.ensure_ready(30)
        first = child.pid
        assert first is not None
        answering.clear()
        child.rest()
        os.kill(first, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{first}").exists())
        answering.set()
        await until(lambda: child.state is State.STOPPED)

        assert child.pid is None


@pytest.mark.parametrize("health", [None, Health(ready=False)], ids=["silent", "answers that it is not ready"])
async def test_a_child_that_hangs_is_replaced(health: Health | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was ready, and does not say so any more, is killed and started again."""
    monkeypatch.setattr("gateway.process.WATCH_EVERY", 0.02)
    hanging: set[int | None] = set()

    async def probe() -> Health | None:
        return health if child.pid in hanging else Health(ready=True)

    async with process(FOREVER, probe) as child:
        await child.ensure_ready(30)
        first = child.pid
        assert first is not None
        hanging.add(first)
        await replaced(child, first)

        assert child.pid not in hanging


async def test_a_child_that_is_of_no_use_can_be_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Though its health is good it is killed and started again; why is in the log, and told until it is ready."""
    coming_back = asyncio.Event()
    coming_back.set()

    async def probe() -> Health:
        return Health(ready=coming_back.is_set())

    async with process(FOREVER, probe) as child:
        child.give_up("it does not run")
        await child.ensure_ready(30)
        first = child.pid
        assert first is not None
        coming_back.clear()
        child.give_up("no request was answered")
        await child.death_noticed()
        assert (child.state, child.reason) == (State.STARTING, "no request was answered")
        with pytest.raises(EngineUnavailable, match="being restarted"):
            await child.ensure_ready(0)
        coming_back.set()
        await replaced(child, first)

        assert child.reason is None
    assert "demo: no request was answered; it is killed" in caplog.text
    assert "it does not run" not in caplog.text


async def test_one_that_is_told_to_rest_between_a_death_and_its_restart_stays_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long the pause would have been; and it can be started again at once."""
    monkeypatch.setattr("gateway.process.FIRST_PAUSE", 1000.0)
    monkeypatch.setattr("gateway.process.LONGEST_PAUSE", 1000.0)
    async with process(FOREVER) as child:
        await child.ensure_ready(30)
        await killed(child)
        os.kill(child.pid or 0, signal.SIGKILL)
        await until(lambda: child.restarting)
        child.rest()
        await until(lambda: child.state is State.STOPPED)
        assert child.pid is None

        await child.ensure_ready(30)


async def test_one_that_is_told_to_rest_while_it_restarts_is_ended() -> None:
    """The new child is not loaded for nobody."""
    coming_back = asyncio.Event()
    coming_back.set()

    async def probe() -> Health:
        return Health(ready=coming_back.is_set())

    async with process(FOREVER, probe) as child:
        await child.ensure_ready(30)
        first = child.pid
        coming_back.clear()
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: child.pid not in (None, first))
        child.rest()
        await until(lambda: child.state is State.STOPPED)

        assert (child.pid, child.failed_starts) == (None, 0)


async def test_one_that_sleeps_for_too_long_is_ended() -> None:
    """What it holds while it sleeps is given back, and who asks gets another one."""
    told: list[str] = []

    async def sleep() -> None:
        told.append("sleep")

    async def wake() -> None:
        told.append("wake")

    async with process(FOREVER, nap=Nap(sleep, wake)) as child:
        await child.ensure_ready(30)
        first = child.pid
        child.rest()
        await until(lambda: child.state is State.ASLEEP)
        child.longest_nap = 0.1
        await child.ensure_ready(30)
        assert (child.pid, told) == (first, ["sleep", "wake"])

        child.rest()
        await until(lambda: child.state is State.STOPPED)
        assert child.pid is None
        await child.ensure_ready(30)

        assert child.pid not in (None, first)
        assert told == ["sleep", "wake", "sleep"]
