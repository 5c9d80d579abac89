"""What is told of a process that loads: how far it is, and when to come back."""

import time
from pathlib import Path

import pytest

from gateway.errors import EngineUnavailable
from gateway.life import Health, State
from tests.gateway.test_process import FOREVER, loading, process, python, until


async def silent() -> None:
    """A probe that the child never answers."""


async def test_who_does_not_want_to_wait_is_told_how_far_it_is() -> None:
    """The wait has an end of its own; the start goes on."""
    async with process(FOREVER, loading) as child:
        with pytest.raises(EngineUnavailable, match=r"still loading \(40% done\)") as caught:
            await child.ensure_ready(0.5)

        assert caught.value.retry_after is not None
        assert 1 <= caught.value.retry_after <= 60
        assert child.state is State.STARTING


async def test_how_far_it_is_can_be_told_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """A child that does not listen yet says it on its output; that is no line for the log."""
    code = "import sys; print('altgate-loading: download 0.35', flush=True); sys.stdin.read()"
    with caplog.at_level("INFO", "gateway.output"):
        async with process(python(code), silent) as child:
            child.want()
            await until(lambda: child.health.progress is not None)
            with pytest.raises(EngineUnavailable, match=r"still loading \(35% done\)"):
                await child.ensure_ready(0)

            assert (child.health.phase, child.health.ready) == ("download", False)
    assert "altgate-loading" not in caplog.text


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("altgate-loading: ", None),
        ("altgate-loading: download", None),
        ("altgate-loading: download nan", None),
        ("altgate-loading: download -1", None),
        ("altgate-loading: download 7", None),
        ("altgate-loading: down\x00load 0.5", None),
        ("altgate-loading: " + "x" * 100_000 + " 0.5", None),
        ("altgate-loading: download 1.9", 1.0),
    ],
)
async def test_garbage_about_the_loading_is_harmless(
    line: str, progress: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a line like any other; and nothing is ever more than done."""
    code = f"import sys; print({line!r}); print('end', flush=True); sys.stdin.read()"
    with caplog.at_level("INFO", "gateway.output"):
        async with process(python(code), silent) as child:
            child.want()
            await until(lambda: "demo: end" in caplog.text)

            assert (child.state, child.health.progress) == (State.STARTING, progress)


async def test_what_a_ready_child_says_of_loading_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is ready, whatever it prints."""
    code = (
        "import pathlib, sys, time\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n"
        "print('altgate-loading: weights 0.1\\nend', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with caplog.at_level("INFO", "gateway.output"):
        async with process(python(code)) as child:
            await child.ensure_ready(30)
            (tmp_path / "go").touch()
            await until(lambda: "demo: end" in caplog.text)

            assert (child.health.ready, child.health.progress) == (True, None)


@pytest.mark.parametrize(("load_seconds", "least", "most"), [(0.5, 1, 1.25), (20.0, 19, 25), (900.0, 60, 60)])
async def test_the_time_to_come_back_is_what_loading_took(load_seconds: float, least: float, most: float) -> None:
    """From one second to sixty, as measured before, a little varied so that not all come at once."""
    async with process(FOREVER, loading) as child:
        child.load_seconds = load_seconds
        child.want()
        await until(lambda: child.state is State.STARTING)
        with pytest.raises(EngineUnavailable) as caught:
            await child.ensure_ready(0)

    assert caught.value.retry_after is not None
    assert least <= caught.value.retry_after <= most


class Clock:
    """A clock that can be put forward."""

    ahead = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic() + self.ahead


@pytest.mark.parametrize(("phase", "least", "most"), [("download", 0, 500), ("weights", 1000, 2000)])
async def test_a_download_is_no_part_of_what_loading_takes(
    phase: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happens once: what is told and planned for later loads is measured from its end on."""
    clock = Clock()
    monkeypatch.setattr("gateway.process.time", clock)
    told = 0
    done = False

    async def probe() -> Health:
        nonlocal told
        told += 1
        return Health(ready=True) if done else Health(ready=False, phase=phase, progress=0.5)

    async with process(FOREVER, probe, start_timeout=10_000) as child:
        child.want()
        await until(lambda: told > 0)
        clock.ahead = 1000.0
        then = told
        await until(lambda: told > then + 1)
        done = True
        await child.ensure_ready(30)

        assert child.load_seconds is not None
        assert least <= child.load_seconds < most
