"""Engines that the owner has and workers use: what goes wrong means the same as with one process."""

import asyncio
import hashlib
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.errors import EngineTimeout, EngineUnavailable
from gateway.life import State
from gateway.local import MOST_UNANSWERED
from tests.gateway.test_local import PICTURE, request, streamed, until, words
from tests.gateway.workers.pairs import lent, office

DIGEST = hashlib.sha256(PICTURE).hexdigest()


async def test_answers_come_straight_from_the_engine(tmp_path: Path) -> None:
    """Whole and streamed, to each of two workers; the engine is started for the first."""
    async with office(tmp_path) as work, lent(work) as one, lent(work) as other:
        answers = await asyncio.gather(*(engine.complete(request("", PICTURE)) for engine in (one, other)))
        pieces = await words(one.stream(streamed("")))

        assert [answer.choices[0].message.content for answer in answers] == [DIGEST] * 2
        assert DIGEST in pieces


async def test_a_start_that_fails_is_told_like_at_home(tmp_path: Path) -> None:
    """The sentence, when to come back, and that waiting will not mend it."""
    async with office(tmp_path, "--start=say why") as work, lent(work) as engine:
        with pytest.raises(EngineUnavailable, match="made of cheese") as there:
            await engine.complete(request())
        with pytest.raises(EngineUnavailable) as here:
            await work.house.engines["a"].complete(request())

    assert there.value.message == here.value.message
    assert there.value.heals is here.value.heals is False
    assert there.value.retry_after == pytest.approx(here.value.retry_after, abs=1)


async def test_patience_is_the_requests_own(tmp_path: Path) -> None:
    """Who does not want to wait is told how far the loading is; who waits is served."""
    async with office(tmp_path, "--load=0.5") as work, lent(work) as engine:
        with pytest.raises(EngineUnavailable, match="still loading"):
            await engine.complete(request(), wait=0)

        await engine.complete(request(), wait=20)


async def test_who_worked_with_an_engine_that_dies_is_told_and_the_next_is_served(tmp_path: Path) -> None:
    """Whether the engine died of a request or of something else."""
    async with office(tmp_path) as work, lent(work) as engine:
        await engine.complete(request())
        with pytest.raises(EngineUnavailable, match="went away while it worked") as caught:
            await engine.complete(request("die"))
        assert 1 <= (caught.value.retry_after or 0) <= 60
        await engine.complete(request())

        process = work.house.engines["a"].process
        os.kill(process.pid or 0, signal.SIGKILL)
        await until(lambda: process.state is not State.READY)
        await engine.complete(request())

        assert process.failed_starts == 0


async def test_an_engine_that_says_it_is_dead_is_replaced(tmp_path: Path) -> None:
    """A worker hears it, and the owner kills what is left."""
    async with office(tmp_path) as work, lent(work) as engine:
        await engine.complete(request())
        pid = work.house.engines["a"].process.pid
        with pytest.raises(EngineUnavailable):
            await engine.complete(request("dead"))
        await engine.complete(request())

        assert work.house.engines["a"].process.pid != pid


async def test_requests_left_unanswered_are_counted_over_all_workers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One each of three workers in a row are enough; one that is answered between them begins the count anew."""
    async with office(tmp_path, request_timeout=0.3) as work, AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(lent(work, request_timeout=0.3)) for _ in range(MOST_UNANSWERED)]
        process = work.house.engines["a"].process
        await engines[0].complete(request())
        pid = process.pid
        for engine in engines:
            hanging = asyncio.gather(engine.complete(request("hang")), return_exceptions=True)
            await engines[0].complete(request())
            assert isinstance((await hanging)[0], EngineTimeout)
        assert process.pid == pid

        for engine in engines:
            with pytest.raises(EngineTimeout):
                await engine.complete(request("hang"))

        await until(lambda: process.pid not in (pid, None))
    assert "left 3 requests in a row without an answer" in caplog.text


async def test_what_a_worker_that_ends_had_is_free(tmp_path: Path) -> None:
    """It had the only place, and waited for its turn besides; both are taken back, and another model can be loaded."""
    async with office(tmp_path, names="ab", request_timeout=30) as work, lent(work, "b") as survivor:
        async with lent(work, "a") as gone:
            hanging = asyncio.create_task(gone.complete(request("hang")))
            await until(lambda: work.house.engines["a"].status.state is State.READY)
            await until(lambda: work.house.engines["a"].seat.seen().busy == 1)
            waiting = asyncio.create_task(survivor.complete(request("", PICTURE)))
            await until(lambda: work.house.engines["b"].seat.in_line == 1)
            hanging.cancel()  # what it says of that is lost with it

        answer = await waiting

    assert answer.choices[0].message.content == DIGEST


async def test_giving_up_gives_the_engine_back(tmp_path: Path) -> None:
    """A request that is cancelled, be it at the engine or in line, takes part no more, while its worker lives on."""
    async with office(tmp_path, names="ab") as work, lent(work, "a") as one, lent(work, "b") as other:
        at_work = asyncio.create_task(one.complete(request("hang")))
        await until(lambda: work.house.engines["a"].seat.seen().busy == 1)
        in_line = asyncio.create_task(other.complete(request()))
        await until(lambda: work.house.engines["b"].seat.in_line == 1)

        in_line.cancel()
        await until(lambda: work.house.engines["b"].seat.in_line == 0)
        at_work.cancel()
        await until(lambda: work.house.engines["a"].seat.seen().busy == 0)

        await asyncio.gather(at_work, in_line, return_exceptions=True)
        await other.complete(request())
