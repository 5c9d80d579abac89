"""The life of a supervised process, with real children."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gateway import child as child_module
from gateway.errors import EngineUnavailable
from gateway.life import Health, Nap, Probe, State
from gateway.process import Process, nothing_missing

ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    """A child that runs that code."""
    return [sys.executable, "-c", code]


FOREVER = python("import sys; print('up', flush=True); sys.stdin.read()")


async def healthy() -> Health:
    """A probe that finds the child well at once."""
    return Health(ready=True, device="cpu")


async def loading() -> Health:
    """A probe that finds the child loading for ever."""
    return Health(ready=False, phase="weights", progress=0.4)


def process(
    command: Sequence[str],
    probe: Probe = healthy,
    *,
    start_timeout: float = 30,
    nap: Nap | None = None,
    obstacle: Callable[[], str | None] = nothing_missing,
) -> Process:
    """A process of that command."""
    return Process("demo", command, probe, start_timeout=start_timeout, nap=nap, obstacle=obstacle)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def replaced(child: Process, first: int) -> None:
    """Returns when another child is ready in the first one's place."""
    await until(lambda: child.pid not in (None, first) and child.state is State.READY)


async def test_it_starts_when_it_is_wanted_and_stops_with_its_context() -> None:
    """Nothing runs before somebody asks, and nothing runs afterwards."""
    async with process(FOREVER) as child:
        states = [child.state]
        await child.ensure_ready(30)
        states.append(child.state)
        pid = child.pid
        assert pid is not None
    states.append(child.state)

    assert states == [State.STOPPED, State.READY, State.STOPPED]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_many_callers_share_one_start() -> None:
    """A hundred who ask at once get one child."""
    async with process(FOREVER) as child:
        await asyncio.gather(*(child.ensure_ready(30) for _ in range(100)))
        first = child.pid
        await child.ensure_ready(30)

        assert child.pid == first


async def test_a_start_that_says_why_it_failed_is_quoted() -> None:
    """A last line meant for clients is told to them, and the next caller is told at once, with a time to come back."""
    code = "import sys; print('Traceback: /secret'); sys.exit('altgate: the weights are made of cheese.')"
    async with process(python(code), loading) as child:
        with pytest.raises(EngineUnavailable, match="'demo' cannot be served: the weights are made of cheese"):
            await child.ensure_ready(30)
        with pytest.raises(EngineUnavailable) as caught:
            await child.ensure_ready(30)

    assert caught.value.retry_after is not None
    assert child.state is State.STOPPED


async def test_a_start_that_fails_silently_points_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """What the child printed is for our log alone; the client learns the exit code."""
    async with process(python("import sys; print('secret'); sys.exit(5)"), loading) as child:
        with pytest.raises(EngineUnavailable) as caught:
            await child.ensure_ready(30)

    assert "exit code 5" in caught.value.message
    assert "secret" not in caught.value.message
    assert "secret" in caplog.text


async def test_a_start_that_is_killed_tells_of_memory() -> None:
    """What the system does to a process that takes too much of it cannot be told by the process itself."""
    async with process(python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), loading) as child:
        with pytest.raises(EngineUnavailable, match="memory runs out"):
            await child.ensure_ready(30)


async def test_a_program_that_does_not_exist_is_a_failed_start() -> None:
    """The error is one of ours."""
    async with process(["/nowhere/at/all"]) as child:
        with pytest.raises(EngineUnavailable, match="could not be started"):
            await child.ensure_ready(30)


async def test_a_start_that_takes_too_long_is_ended() -> None:
    """A child that never becomes ready is killed, and who waited learns why."""
    async with process(FOREVER, loading, start_timeout=0.2) as child:
        with pytest.raises(EngineUnavailable, match="not ready within"):
            await child.ensure_ready(30)

        assert child.pid is None


async def test_an_obstacle_is_told_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known not to work is not tried; once the obstacle is gone, who asks after the back-off is served."""
    monkeypatch.setattr("gateway.process.FIRST_PAUSE", 0.01)
    obstacles: list[str | None] = ["needs vllm: pip install 'altgate[vllm]'"]
    code = f"open({str(tmp_path / 'started')!r}, 'w'); import sys; sys.stdin.read()"
    async with process(python(code), obstacle=lambda: obstacles[-1]) as child:
        with pytest.raises(EngineUnavailable, match=r"'demo' cannot be served: needs vllm: pip install") as caught:
            await child.ensure_ready(30)
        assert (child.state, child.pid, caught.value.heals) == (State.FAILED, None, False)
        assert not (tmp_path / "started").exists()

        obstacles.append(None)
        await until(lambda: not child.backing_off)
        await child.ensure_ready(30)

        assert child.reason is None


async def test_one_that_is_killed_may_clear_away_what_it_would_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is let off its leash, which it knows the meaning of."""
    monkeypatch.setattr(child_module, "LEASH_PATIENCE", 20.0)
    code = f"import pathlib, sys; sys.stdin.read(); pathlib.Path({str(tmp_path / 'cleared')!r}).touch()"
    async with process(python(code), loading, start_timeout=0.1) as child:
        with pytest.raises(EngineUnavailable, match="not ready within"):
            await child.ensure_ready(30)

    assert (tmp_path / "cleared").exists()


async def test_one_that_is_killed_and_does_not_end_is_ended_with_all_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment later."""
    monkeypatch.setattr(child_module, "LEASH_PATIENCE", 0.05)
    told = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        f"pathlib.Path({str(told)!r}).write_text(f'{{child.pid}}\\n')\n"
        "time.sleep(1000)"
    )

    async def started() -> Health:
        return Health(ready=told.exists() and told.read_text().endswith("\n"))

    async with process(python(code), started) as child:
        await child.ensure_ready(30)
        started_by_it = os.pidfd_open(int(told.read_text()))
        child.give_up("it is to be seen")

        await until(lambda: bool(select.select([started_by_it], [], [], 0)[0]))
    os.close(started_by_it)


async def test_a_child_ends_when_the_gateway_is_killed(tmp_path: Path) -> None:
    """Not even SIGKILL of its parent leaves a child behind: its standard input ends."""
    code = (
        "import asyncio, sys\n"
        "from tests.gateway.test_process import FOREVER, process\n"
        "async def main():\n"
        "    async with process(FOREVER) as child:\n"
        "        await child.ensure_ready(30)\n"
        "        print(child.pid, flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(*python(code), stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())

    parent.kill()
    await parent.wait()

    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            await asyncio.sleep(0.01)


async def test_what_a_dead_child_started_ends_with_it(tmp_path: Path) -> None:
    """A grandchild that holds the log open neither keeps the child's death a secret nor outlives it."""
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "sys.stdin.read()\n"
    )
    async with process(python(code)) as child:
        await child.ensure_ready(30)
        first = child.pid
        assert first is not None
        async with asyncio.timeout(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await asyncio.sleep(0.01)
        grandchild = os.pidfd_open(int((tmp_path / "pid").read_text()))

        os.kill(first, signal.SIGKILL)
        await replaced(child, first)

        assert select.select([grandchild], [], [], 20)[0]
        os.close(grandchild)


async def test_what_it_has_started_is_ended_by_itself_and_only_then_killed(tmp_path: Path) -> None:
    """SIGTERM goes to the child alone, which knows the order; what it leaves behind is killed."""
    grandchild = (
        "import pathlib, signal, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(tmp_path / 'asked')!r}).touch())\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "while True: time.sleep(1000)\n"
    )
    code = (
        "import pathlib, signal, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        f"def end(*_): pathlib.Path({str(tmp_path / 'ended')!r}).touch(); time.sleep(0.2); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"while not pathlib.Path({str(tmp_path / 'up')!r}).exists(): time.sleep(0.01)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "while True: time.sleep(1000)\n"
    )

    async def probe() -> Health:
        return Health(ready=(tmp_path / "ready").exists())

    async with process(python(code), probe) as child:
        await child.ensure_ready(30)
        watch = os.pidfd_open(int((tmp_path / "pid").read_text()))

    assert select.select([watch], [], [], 20)[0]
    os.close(watch)
    assert (tmp_path / "ended").exists()
    assert not (tmp_path / "asked").exists()


async def test_a_probe_that_breaks_is_a_failed_start(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong in the supervision itself, who waits is told at once, and the next start is tried."""

    async def broken() -> Health:
        raise KeyError("secret")

    async with process(FOREVER, broken) as child:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match="its supervision failed"):
                await child.ensure_ready(30)

        assert child.state is State.FAILED
    assert "secret" in caplog.text


async def test_a_flood_of_output_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """A child that prints megabytes without a line's end neither blocks nor fills our memory."""
    async with process(python("import sys; print('x' * 5_000_000, flush=True); sys.stdin.read()")) as child:
        await child.ensure_ready(30)

    assert all(len(record.getMessage()) < 3_000 for record in caplog.records)
