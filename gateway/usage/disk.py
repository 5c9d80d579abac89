"""Usage in a file: SQLite, so that a batch is written whole or not at all, by any number of processes.

Where there can be no file, as on a read-only system, a database in memory stands in for it, with one line in the log.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.usage.counts import COUNTERS, Account, Batch, Counts, Query
from gateway.usage.store import MAX_ROWS, TooMuch, Unkept
from gateway.wire import KeptIn

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that other processes may take to write
TRY_EVERY = 0.05  # seconds
VERSION = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS counts (
    day TEXT, key TEXT, team TEXT, model TEXT, {", ".join(f"{name} INTEGER NOT NULL" for name in COUNTERS)},
    PRIMARY KEY (day, key, team, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    day TEXT, writer TEXT, number INTEGER NOT NULL,
    PRIMARY KEY (day, writer)
) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
COMMIT;
"""
_ADD = f"""
INSERT INTO counts VALUES (?, ?, ?, ?, {", ".join("?" for _ in COUNTERS)}) ON CONFLICT DO UPDATE
SET {", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTERS)}
"""  # noqa: S608 - the names are our own
_LAST = "SELECT number FROM batches WHERE day = ? AND writer = ?"
_NUMBER = "INSERT INTO batches VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number"


class DiskStore:
    """A file, opened at its first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()  # a task that is cancelled leaves a thread that is still at work
        self._is_memory = False

    @property
    def kept(self) -> KeptIn:
        """On disk, if that can be."""
        return "memory" if self._is_memory else "disk"

    async def add(self, batch: Batch) -> None:
        """Adds a batch, unless it was added before."""
        await asyncio.to_thread(self._add, batch)

    async def read(self, query: Query) -> Mapping[Account, Counts]:
        """The sums of each group."""
        return await asyncio.to_thread(self._read, query)

    async def tidy(self, before: str) -> None:
        """Forgets the days before that one."""
        await asyncio.to_thread(self._tidy, before)

    async def close(self) -> None:
        """Closes the file."""
        await asyncio.to_thread(self._close)

    def _add(self, batch: Batch) -> None:
        with self._open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            (last,) = database.execute(_LAST, (batch.day, batch.writer)).fetchone() or (0,)
            if last < batch.number:
                database.executemany(_ADD, map(_row, batch.counts.items()))
                database.execute(_NUMBER, (batch.day, batch.writer, batch.number))

    def _read(self, query: Query) -> dict[Account, Counts]:
        with self._open() as database:
            rows = database.execute(*_question(query)).fetchall()
        if len(rows) > MAX_ROWS:
            raise TooMuch
        return {Account(*row[:4]): Counts(*row[4:]) for row in rows}

    def _tidy(self, before: str) -> None:
        with self._open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM counts WHERE day < ?", (before,))
            database.execute("DELETE FROM batches WHERE day < ?", (before,))

    def _close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database, for one at a time."""
        with self._lock:
            if self._database is None:
                self._database = self._opened()
            try:
                yield self._database
            except sqlite3.Error as error:
                raise Unkept(str(error)) from None

    def _opened(self) -> sqlite3.Connection:
        try:
            return _file(self._path)
        except (sqlite3.Error, OSError) as error:
            log.warning(
                "Usage cannot be kept in %s (%s): it is kept in memory, and lost when the gateway ends. "
                "Set 'usage.path' to a file that can be written",
                self._path,
                error.strerror if isinstance(error, OSError) else error,
            )
            self._is_memory = True
            return _prepared(":memory:")


def _file(path: Path) -> sqlite3.Connection:
    """The file's database, made if need be; several processes may make it at the same time."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    gives_up = time.monotonic() + PATIENCE
    while True:
        try:
            return _prepared(str(path))
        except sqlite3.OperationalError as error:
            # For a change of the journal SQLite does not wait for others by itself.
            if (
                error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                or time.monotonic() > gives_up
            ):
                raise
        time.sleep(TRY_EVERY)


def _prepared(name: str) -> sqlite3.Connection:
    """A database with our tables, synchronized with the disk at every commit."""
    with ExitStack() as stack:
        database = sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        stack.callback(database.close)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise sqlite3.DatabaseError("it is of a later version of Altgate")
        database.executescript(_SCHEMA)
        stack.pop_all()  # it stays open
    return database


def _row(entry: tuple[Account, Counts]) -> tuple[str | int, ...]:
    account, counts = entry
    return (*account, *(getattr(counts, name) for name in COUNTERS))


def _question(query: Query) -> tuple[str, Sequence[str | int]]:
    groups = [name if name in query.by else "''" for name in Account._fields]
    sums = [f"SUM({name})" for name in COUNTERS]
    wanted = {name: value for name in ("key", "team", "model") if (value := getattr(query, name)) is not None}
    conditions = " AND ".join(["day BETWEEN ? AND ?", *(f"{name} = ?" for name in wanted)])
    text = f"SELECT {', '.join(groups + sums)} FROM counts WHERE {conditions} GROUP BY 1, 2, 3, 4 LIMIT ?"  # noqa: S608 - the names are our own
    return text, (query.first, query.last, *wanted.values(), MAX_ROWS + 1)
