"""Nobody waits for whoever reads the log."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.logs.sink import ATOMIC, MOST_WAITING, Sink

LINE = b"x" * 999 + b"\n"


def notice(lost: int) -> bytes:
    """The line about lines that are not there."""
    return b"lost: %d\n" % lost


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe: the one to read, the one to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def drained(end: int) -> bytes:
    """What lies in a pipe."""
    os.set_blocking(end, False)
    blocks = []
    try:
        while block := os.read(end, 2**20):
            blocks.append(block)
    except BlockingIOError:
        pass
    return b"".join(blocks)


def filled(end: int) -> None:
    """Leaves no room in a pipe."""
    os.set_blocking(end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(end, b"?")
    os.set_blocking(end, True)


def test_a_file_takes_whatever_is_said_at_once(tmp_path: Path) -> None:
    """Far more than would wait for a reader: that bound is for those that do not read."""
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)

    sink = Sink(descriptor, notice)
    sink.put(LINE * (3 * MOST_WAITING // len(LINE)))
    os.close(descriptor)

    assert file.stat().st_size == 3 * MOST_WAITING // len(LINE) * len(LINE)
    assert sink.dropped == 0


def test_a_line_is_there_at_once(tmp_path: Path) -> None:
    """A gateway that is killed leaves all that it has said."""
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)

    sink = Sink(descriptor, notice)
    sink.put(b"one\n")
    sink.put(b"two" + b"x" * 3 * ATOMIC + b"\n")
    os.close(descriptor)

    assert file.read_bytes() == b"one\ntwo" + b"x" * 3 * ATOMIC + b"\n"


def test_of_what_is_said_at_once_lines_are_dropped_one_by_one(pipe: tuple[int, int]) -> None:
    """What there is room for is written, what is below a line goes with it, and each that is lost counts."""
    sink = Sink(pipe[1], notice)
    small, large = b"trouble\n    set in\n", b"trouble\n    " + LINE
    room = LINE * (MOST_WAITING // len(LINE))
    filled(pipe[1])

    sink.put(room + small + large + b"end\n")
    drained(pipe[0])
    sink.put(b"")
    said = b""
    while block := drained(pipe[0]):
        said += block
        sink.put(b"")

    assert said == room + small + b"end\n" + notice(1)


def test_a_pipe_that_nobody_reads_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """What it does not take waits up to a bound; beyond that lines are dropped, counted, and told of."""
    sink = Sink(pipe[1], notice)
    for _ in range(2 * MOST_WAITING // len(LINE)):
        sink.put(LINE)
    lost = sink.dropped
    said = b""
    for _ in range(2 * MOST_WAITING // ATOMIC):
        said += drained(pipe[0])
        sink.put(LINE)

    assert lost > 0
    assert said.count(notice(lost)) == 1
    assert {len(line) for line in said.replace(notice(lost), b"").split(b"\n")} <= {0, len(LINE) - 1}


def test_who_speaks_while_a_line_is_written_waits_for_nobody(pipe: tuple[int, int]) -> None:
    """In the same thread: the collector may run there, and end an object that has something to say."""

    def talkative(lost: int) -> bytes:
        sink.put(b"inner\n")
        return notice(lost)

    sink = Sink(pipe[1], talkative)
    for _ in range(2 * MOST_WAITING // len(LINE)):
        sink.put(LINE)
    said = b""
    for _ in range(2 * MOST_WAITING // ATOMIC):
        said += drained(pipe[0])
        sink.put(b"outer\n")

    assert said.count(notice(sink.dropped)) == said.count(b"inner\n") == 1


def test_a_pipe_takes_whole_lines_at_a_time() -> None:
    """Others may write to it as well, each worker does: what they say does not come into the middle of a line."""
    ends = os.pipe2(os.O_DIRECT)  # what is written at once is read at once
    sink = Sink(ends[1], notice)
    sink.put(LINE * 10 + b"y" * ATOMIC + b"\n" + LINE)
    os.close(ends[1])
    blocks = [*iter(lambda: os.read(ends[0], 2 * ATOMIC), b"")]
    os.close(ends[0])

    assert blocks == [LINE * 4, LINE * 4, LINE * 2, b"y" * ATOMIC, b"\n" + LINE]


def test_a_reader_that_has_gone_is_no_fault(pipe: tuple[int, int]) -> None:
    """The gateway goes on without a log."""
    reading, writing = os.pipe()
    os.close(reading)
    sink = Sink(writing, notice)

    for _ in range(3):
        sink.put(LINE)
    sink.flush()
    os.close(writing)


def test_the_end_waits_for_a_reader_but_not_for_ever(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is written when there is room; where nobody reads, it is given up."""
    monkeypatch.setattr("gateway.logs.sink.LAST", 0.05)
    sink = Sink(pipe[1], notice)
    for _ in range(100):
        sink.put(LINE)

    sink.flush()
    read = len(drained(pipe[0]))
    sink.flush()

    assert read + len(drained(pipe[0])) == 100 * len(LINE)
