"""Several models that share places: nothing is lost, nothing goes astray, nothing outlives the gateway."""

import asyncio
import hashlib
import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from gateway.engine import Ask
from gateway.errors import EngineUnavailable
from gateway.fleet import Fleet
from gateway.life import State
from gateway.local import LocalEngine
from tests import pictures
from tests.flows.raw import Answer, chat, send
from tests.gateway.test_local import journal, local_engine, request, until, words
from tests.pictures import SCENES, data_url, message
from tests.services import Server, running_server

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "engines/demo/checkpoint"
TWIN = f'[models.twin]\nengine = "blip"\nsource = "{CHECKPOINT}"\npicture_size = 96\nargs = {{ threads = 1 }}\n'
PICTURE = [message(data_url(pictures.png(SCENES[0])))]
FRESH = {"cache-control": "no-store"}


@asynccontextmanager
async def stand_ins(
    folder: Path,
    names: Sequence[str],
    *options: str,
    max_loaded: int,
    idle_timeout: float | None = None,
    sleeps: bool = False,
) -> AsyncIterator[dict[str, LocalEngine]]:
    """Stand-ins by name, which share places and a journal."""
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet(max_loaded=max_loaded, idle_timeout=idle_timeout))
        engines = {
            name: local_engine(fleet, folder, f"--journal={folder / 'journal'}", *options, name=name, sleeps=sleeps)
            for name in names
        }
        for engine in engines.values():
            await stack.enter_async_context(engine)
        yield engines


async def test_ten_thousand_requests_each_get_their_own_answer(tmp_path: Path) -> None:
    """Four models in three places, whole and streamed, each about a picture of its own, one in ten cancelled: every
    answer names the digest of its own picture, and in the end every engine is idle and unloaded."""
    dice = random.Random(1)
    async with stand_ins(tmp_path, "abcd", max_loaded=3, idle_timeout=1.0) as engines:
        seats = asyncio.Semaphore(200)

        async def ask(number: int) -> str:
            picture = number.to_bytes(4, "big") * dice.randrange(1, 50)
            engine = engines["abcd"[dice.randrange(1000) // 333]]  # the fourth is asked for rarely
            async with seats:
                if number % 10 == 0:
                    return await _leave(engine, request("", picture), after=dice.random() / 50)
                answer = await _answer(engine, picture, stream=number % 2 == 1)
            return "its own" if answer == hashlib.sha256(picture).hexdigest() else "another's"

        ends = Counter(await asyncio.gather(*(ask(number) for number in range(10_000))))

        assert ends["another's"] == 0
        assert ends["its own"] >= 9_000
        assert ends.total() == 10_000
        await until(lambda: all(engine.status.state is State.STOPPED for engine in engines.values()))


async def _answer(engine: LocalEngine, picture: bytes, *, stream: bool) -> str | None:
    if stream:
        return "".join(await words(engine.stream(request("", picture, stream=True))))
    content = (await engine.complete(request("", picture))).choices[0].message.content
    return content if isinstance(content, str) else None


async def _leave(engine: LocalEngine, asked: Ask, *, after: float) -> str:
    work = asyncio.create_task(engine.complete(asked))
    await asyncio.sleep(after)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return "cancelled"


async def test_an_engine_that_makes_room_sleeps_where_it_can(tmp_path: Path) -> None:
    """One place: each of two models is started once, and from then on one sleeps while the other works."""
    async with stand_ins(tmp_path, "ab", max_loaded=1, sleeps=True) as engines:
        for name in "abab":
            await engines[name].complete(request("", b"picture"))

        assert (engines["a"].status.state, engines["b"].status.state) == (State.ASLEEP, State.READY)
    told = [line for line in journal(tmp_path) if "reset" not in line]
    assert told == ["a /sleep?level=1", "b /sleep?level=1", "a /wake_up", "a /sleep?level=1", "b /wake_up"]


async def test_an_engine_that_sleeps_for_long_is_stopped(tmp_path: Path) -> None:
    """When it has slept for the time to live, its process ends and gives back what it held; asked for, it returns."""
    async with stand_ins(tmp_path, "a", max_loaded=1, idle_timeout=0.3, sleeps=True) as engines:
        for _ in range(2):
            await engines["a"].complete(request("", b"picture"))
            await until(lambda: engines["a"].status.state is State.ASLEEP)
            await until(lambda: engines["a"].process.pid is None)

        assert journal(tmp_path) == ["a /sleep?level=1"] * 2


async def test_loading_in_the_background_waits_for_a_place_too(tmp_path: Path) -> None:
    """Two models are wanted at once where one place is: they are loaded one after the other, never together."""
    together: set[int] = set()
    async with stand_ins(tmp_path, "ab", max_loaded=1) as engines:

        def loaded_once() -> bool:
            together.add(sum(engine.process.pid is not None for engine in engines.values()))
            return all(engine.status.can_serve for engine in engines.values())

        for engine in engines.values():
            engine.want()
        await until(loaded_once)

    assert together == {0, 1}


async def test_a_model_that_cannot_be_loaded_does_not_touch_another(tmp_path: Path) -> None:
    """While one fails to start again and again, every request for the other is served."""
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet(max_loaded=2))
        broken = await stack.enter_async_context(local_engine(fleet, tmp_path, "--start=say why", name="broken"))
        well = await stack.enter_async_context(local_engine(fleet, tmp_path, name="well"))

        async def insist() -> None:
            while broken.process.failed_starts < 3:
                with pytest.raises(EngineUnavailable, match="made of cheese"):
                    await broken.complete(request())
                await asyncio.sleep(0.01)

        insisting = asyncio.create_task(insist())
        served = 0
        while not insisting.done():
            await well.complete(request("", b"picture"))
            served += 1
        await insisting

        assert served > 3
        assert well.process.failed_starts == 0


async def test_nothing_that_engines_have_started_outlives_a_killed_gateway(tmp_path: Path) -> None:
    """SIGKILL of the gateway ends all its engines and the children of their own."""
    code = (
        "import asyncio, pathlib\n"
        "from tests.flows.test_swapping import stand_ins\n"
        "from tests.gateway.test_local import request\n"
        "async def main():\n"
        f"    folder = pathlib.Path({str(tmp_path)!r})\n"
        "    async with stand_ins(folder, 'abc', '--child', max_loaded=3) as engines:\n"
        "        await asyncio.gather(*(engine.complete(request()) for engine in engines.values()))\n"
        "        print(*(engine.process.pid for engine in engines.values()), flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    gateway = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert gateway.stdout is not None
    engines = [int(pid) for pid in (await gateway.stdout.readline()).split()]
    children = [int(line.rpartition(" ")[2]) for line in journal(tmp_path) if " child " in line]
    watched = [os.pidfd_open(pid) for pid in engines + children]
    assert len(watched) == 6

    gateway.kill()
    await gateway.wait()

    for watch in watched:
        assert select.select([watch], [], [], 20)[0]
        os.close(watch)


def test_two_models_swap_in_one_place_under_load(tmp_path: Path) -> None:
    """Thirty-six requests for two models, A B A B, twelve at once: each is answered rightly, never more than one
    engine is there, and they swap few times. The one that made room would be loaded again: the gateway stays ready."""
    with running_server(tmp_path, settings=f"[engines]\nmax_loaded = 1\n{TWIN}") as running:
        assert _ask_under_load(running) == ({200: 36}, 1)
        assert 2 <= running.log.read_text().count(": starting") <= 6
        assert {send(running, "GET", f"/v1/models/{name}").json()["status"] for name in ("demo", "twin")} == {
            "ready",
            "stopped",
        }
        assert send(running, "GET", "/ready").status == 200


def test_two_models_stay_in_two_places_and_end_with_the_gateway(tmp_path: Path) -> None:
    """The same requests with a place for each: two starts. When the gateway is killed, neither engine outlives it."""
    with running_server(tmp_path, settings=f"[engines]\nmax_loaded = 2\n{TWIN}") as running:
        assert _ask_under_load(running) == ({200: 36}, 2)
        assert running.log.read_text().count(": starting") == 2
        watched = [os.pidfd_open(pid) for pid in running.engine_pids()]
        assert len(watched) == 2

        running.process.send_signal(signal.SIGKILL)
        running.process.wait(timeout=30)

        for watch in watched:
            assert select.select([watch], [], [], 30)[0]
            os.close(watch)


def _ask_under_load(running: Server) -> tuple[Counter[int], int]:
    """The statuses of thirty-six requests, and the most engines that were there at once."""
    asked = [("demo" if number % 2 else "twin", number % 3 == 0) for number in range(36)]
    most = 0
    with ThreadPoolExecutor(12) as threads:
        asking = [threads.submit(_ask, running, model, stream) for model, stream in asked]
        while not all(future.done() for future in asking):
            most = max(most, len(running.engine_pids()))
            time.sleep(0.002)
    answers = [future.result() for future in asking]
    assert len({_caption(answer) for answer in answers}) == 1
    return Counter(answer.status for answer in answers), most


def _ask(running: Server, model: str, stream: bool) -> Answer:
    return chat(running, FRESH, model=model, messages=PICTURE, stream=stream)


def _caption(answer: Answer) -> str:
    """The words of an answer, whole or streamed."""
    if not answer.body.startswith((b"data:", b":")):
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix(b"data: ") for line in answer.body.splitlines() if line.startswith(b"data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
