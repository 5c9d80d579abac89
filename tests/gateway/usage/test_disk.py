"""Usage in a file: whole batches, whoever writes at the same time and whatever becomes of them."""

import asyncio
import logging
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.usage import disk
from gateway.usage.counts import Account, Batch, Counts, Query
from gateway.usage.disk import DiskStore
from gateway.usage.ledger import Ledger
from gateway.usage.place import path
from gateway.usage.settings import UsageConfig
from gateway.usage.store import TooMuch, Unkept
from tests.gateway.usage.made import ALL, record, total

ROOT = Path(__file__).parents[3]
DAY = "2026-01-02"


def batch(number: int = 1, day: str = DAY, writer: str = "w", **accounts: int) -> Batch:
    """So many requests for each key."""
    counts = {Account(day, key, "t", "demo"): Counts(requests=count) for key, count in accounts.items()}
    return Batch(writer=writer, number=number, day=day, counts=counts)


async def test_a_batch_is_added_once(tmp_path: Path) -> None:
    """However often it is told; each writer and each day has numbers of its own."""
    kept = DiskStore(tmp_path / "u")
    for each in (batch(1, ann=1), batch(1, ann=1), batch(2, ann=10), batch(1, ann=1), batch(2, ann=10)):
        await kept.add(each)
    await kept.add(batch(1, writer="other", ann=100))
    await kept.add(batch(3, day="2026-01-03", ann=1000))
    await kept.close()

    again = DiskStore(tmp_path / "u")
    found = await again.read(ALL)
    await again.close()

    assert {account.day: counts.requests for account, counts in found.items()} == {DAY: 111, "2026-01-03": 1000}


async def test_sums_are_told_apart_as_asked(tmp_path: Path) -> None:
    """By day, key, team and model, for those that are meant."""
    kept = DiskStore(tmp_path / "u")
    await kept.add(batch(1, ann=1, bob=2))
    await kept.add(batch(2, day="2026-01-03", ann=4))

    assert await kept.read(Query(first=DAY, last=DAY, by=("key",))) == {
        Account("", "ann", "", ""): Counts(requests=1),
        Account("", "bob", "", ""): Counts(requests=2),
    }
    assert await kept.read(Query(first=DAY, last="2026-01-03", key="ann", by=("day", "team"))) == {
        Account(DAY, "", "t", ""): Counts(requests=1),
        Account("2026-01-03", "", "t", ""): Counts(requests=4),
    }
    assert await kept.read(Query(first=DAY, last=DAY, model="' OR 1=1 --")) == {}
    await kept.close()


async def test_too_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than cut off."""
    monkeypatch.setattr(disk, "MAX_ROWS", 2)
    kept = DiskStore(tmp_path / "u")
    await kept.add(batch(ann=1, bob=1, cid=1))

    with pytest.raises(TooMuch):
        await kept.read(ALL)
    assert total(await kept.read(Query(first=DAY, last=DAY, by=("team",)))).requests == 3
    await kept.close()


async def test_old_days_are_forgotten(tmp_path: Path) -> None:
    """With what was known of their batches."""
    kept = DiskStore(tmp_path / "u")
    await kept.add(batch(1, day="2025-01-01", ann=1))
    await kept.add(batch(2, day="2025-01-02", ann=2))

    await kept.tidy("2025-01-02")

    assert total(await kept.read(ALL)).requests == 2
    await kept.close()
    with sqlite3.connect(tmp_path / "u") as database:
        assert database.execute("SELECT day FROM batches").fetchall() == [("2025-01-02",)]
    database.close()


def test_many_processes_write_one_file(tmp_path: Path) -> None:
    """They make it at the same time, too; nothing is lost and nothing counted twice."""
    file, requests = tmp_path / "state" / "usage.sqlite", 40
    command = [sys.executable, "-m", "tests.gateway.usage.writer", str(file), str(requests)]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(4)]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    assert written(file) == 4 * requests
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_process_that_is_killed_has_written_what_it_said(tmp_path: Path) -> None:
    """Whole batches: what was written is there, at most the one under way besides."""
    file = tmp_path / "usage.sqlite"
    command = [sys.executable, "-m", "tests.gateway.usage.writer", str(file), "1000000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = sum(1 for _ in zip(range(20), writer.stdout, strict=False))
        writer.kill()
        said += sum(1 for line in writer.stdout if line == "written\n")

    assert said <= written(file) <= said + 1


def written(file: Path) -> int:
    """How many requests stand in the file; each has thirteen tokens."""

    async def read() -> Counts:
        kept = DiskStore(file)
        found = total(await kept.read(ALL))
        await kept.close()
        return found

    found = asyncio.run(read())
    assert found.prompt_tokens + found.completion_tokens == 13 * found.requests
    return found.requests


@pytest.mark.parametrize("trouble", ["under a file", "a folder", "no database", "a later version"])
async def test_without_a_file_it_is_kept_in_memory(
    tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a read-only system: the log says so once, with the remedy, and what cannot be read is left as it is."""
    file = tmp_path / "u"
    match trouble:
        case "under a file":
            file.touch()
            file = file / "u"
        case "a folder":
            file.mkdir()
        case "no database":
            file.write_text("precious" * 1000)
        case _:
            with sqlite3.connect(file) as database:
                database.execute(f"PRAGMA user_version = {disk.VERSION + 1}")
            database.close()
    kept = DiskStore(file)

    await kept.add(batch(1, ann=1))
    await kept.add(batch(2, ann=1))

    assert kept.kept == "memory"
    assert total(await kept.read(ALL)).requests == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'usage.path'" in caplog.text
    await kept.close()
    if trouble == "no database":
        assert file.read_text() == "precious" * 1000


async def test_what_cannot_be_written_now_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program holds the file for longer than one waits."""
    monkeypatch.setattr(disk, "PATIENCE", 0.05)
    kept = DiskStore(tmp_path / "u")
    ledger = Ledger(kept, {})
    ledger.count(record())
    await ledger.flush()
    with sqlite3.connect(tmp_path / "u", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            ledger.count(record())
            with pytest.raises(Unkept):
                await ledger.flush()
        other.execute("ROLLBACK")
    other.close()

    assert total(await ledger.read(ALL)).requests == 4
    await kept.close()


async def test_a_file_that_somebody_else_makes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself does not wait for others where the kind of journal is set."""
    attempts = threading.Semaphore(0)
    prepared = disk._prepared

    def tried(name: str) -> sqlite3.Connection:
        attempts.release()
        return prepared(name)

    monkeypatch.setattr(disk, "_prepared", tried)
    with sqlite3.connect(tmp_path / "u", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        kept = DiskStore(tmp_path / "u")
        adding = asyncio.create_task(kept.add(batch(ann=1)))
        for _ in range(2):
            await asyncio.to_thread(attempts.acquire, timeout=20)
        other.execute("ROLLBACK")
    other.close()
    await adding

    assert kept.kept == "disk"
    await kept.close()


@pytest.mark.parametrize(
    ("config", "environ", "file"),
    [
        (UsageConfig(path="/var/lib/altgate/u"), {"XDG_STATE_HOME": "/state"}, "/var/lib/altgate/u"),
        (UsageConfig(path="~/u"), {}, str(Path.home() / "u")),
        (UsageConfig(), {"XDG_STATE_HOME": "/state"}, "/state/altgate/usage.sqlite"),
        (UsageConfig(), {"XDG_STATE_HOME": "state"}, str(Path.home() / ".local/state/altgate/usage.sqlite")),
        (UsageConfig(), {}, str(Path.home() / ".local/state/altgate/usage.sqlite")),
    ],
)
def test_the_file_lies_where_state_belongs(config: UsageConfig, environ: dict[str, str], file: str) -> None:
    """Where the configuration says, or in the user's state folder; relative folders are none, by its specification."""
    assert path(config, environ) == Path(file)


def test_who_has_no_home_has_a_place_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, somebody may be no user of the system."""
    monkeypatch.setattr(Path, "home", _nowhere)

    assert path(UsageConfig(), {}) == Path("/var/lib/altgate/usage.sqlite")


def _nowhere() -> Path:
    raise RuntimeError("Could not determine home directory.")
