"""Engines that share places and do not start, or die: whom it concerns, and whom not."""

import asyncio
import os
import signal

import pytest

from gateway.errors import EngineUnavailable
from gateway.life import State
from tests.gateway.test_fleet import engines, until


async def test_a_start_that_fails_leaves_its_place_to_others() -> None:
    """All who wait are told at once and nobody else is held up."""
    async with engines("ab") as these:
        these.faults["a"] = "its weights are made of cheese"
        *told, served = await asyncio.gather(*(these.use(name) for name in "aaaaab"), return_exceptions=True)

        assert all("made of cheese" in str(error) for error in told)
        assert served is None
        assert these.starts == ["a", "b"]
        with pytest.raises(EngineUnavailable, match="made of cheese"):
            await these.use("a")
        await until(lambda: these.seats["a"].seen().where == "out")
        assert these.starts == ["a", "b"]


async def test_one_that_died_makes_room_when_nobody_is_with_it() -> None:
    """Its restart is given up for a request for another engine, and nobody's for nobody."""
    async with engines("ab") as these:
        await these.use("a")
        these.slow.add("a")
        os.kill(these.processes["a"].pid or 0, signal.SIGKILL)
        await until(lambda: these.starts == ["a", "a"])

        await these.use("b", wait=15)

        assert these.processes["a"].state is State.STOPPED
        assert these.starts == ["a", "a", "b"]
        these.slow.clear()
        await these.use("a")


async def test_a_turn_goes_on_after_a_death() -> None:
    """An engine that dies again and again does not keep its place by it; loaded anew, it has a turn of its own."""
    async with engines("ab") as these:
        await these.use("a")
        first, began = these.processes["a"].pid, these.seats["a"].seen().loaded_at
        os.kill(first or 0, signal.SIGKILL)
        await until(lambda: these.processes["a"].pid not in (None, first) and these.seats["a"].seen().where == "loaded")
        assert these.seats["a"].seen().loaded_at == began

        for name in "ba":
            await these.use(name)

        assert these.seats["a"].seen().loaded_at > began


async def test_one_that_is_preloaded_is_tried_again_by_itself_whenever_its_start_has_failed() -> None:
    """Nobody needs to ask: not for the first load, and not after a death that a failed start has followed."""
    async with engines("a") as these:
        these.faults["a"] = "its weights are made of cheese"
        preloading = asyncio.create_task(these.seats["a"].preload(30))
        await until(lambda: these.processes["a"].state is State.FAILED)
        these.faults.clear()
        await until(lambda: these.processes["a"].state is State.READY)

        these.faults["a"] = "its weights are gone"
        os.kill(these.processes["a"].pid or 0, signal.SIGKILL)
        await until(lambda: these.processes["a"].state is State.FAILED)
        these.faults.clear()
        await until(lambda: these.processes["a"].state is State.READY)
        await until(these.at_rest)
        preloading.cancel()


async def test_a_model_in_trouble_does_not_touch_another() -> None:
    """One engine dies again and again; the other, in its own place, serves as if nothing were."""
    async with engines("ab", max_loaded=2) as these:
        await these.use("b")
        well = these.processes["b"].pid
        for _ in range(3):
            await these.use("a")
            victim = these.processes["a"].pid
            assert victim is not None
            os.kill(victim, 9)
            await these.use("b", wait=0)
            await until(lambda: these.processes["a"].pid not in (None, victim))  # noqa: B023 - awaited in the loop

        assert these.processes["b"].pid == well
