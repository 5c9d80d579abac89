"""What is said becomes a line: with its level, its fields, and without what may not stand in it."""

import asyncio
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.auth import Caller
from gateway.errors import EngineUnavailable
from gateway.logs import pipeline
from gateway.logs.line import RequestLines
from gateway.logs.settings import LogConfig
from gateway.output import Output
from gateway.record import Record
from gateway.wire import Usage

SECRET = "what is the s3cret?"
log = logging.getLogger("gateway.some")
RECORD = Record(
    method="POST",
    path="/v1/chat/completions",
    id="req_1",
    caller=Caller(key_id="ci", team="web"),
    model="demo",
    preset="caption",
    streamed=True,
    digests=["ab" * 32],
    picture_bytes=393,
    notes=["96x96 png -> 96x96 fast"],
    cache="miss",
    usage=Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
    status=200,
    seconds=0.0123,
    stages={"parse": 0.0001, "engine": 0.01},
)


class Said:
    """The log so far."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def text(self) -> str:
        """All of it."""
        return self._file.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its lines, of a log in JSON."""
        return [json.loads(line) for line in self.text.splitlines()]


@contextmanager
def logging_to(folder: Path, **settings: Any) -> Iterator[Said]:
    """The log of this process, while the context lasts."""
    file = folder / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with pipeline.running(LogConfig(**settings), descriptor):
            yield Said(file)
    finally:
        os.close(descriptor)


def test_the_line_of_a_request_has_everything_in_fields(tmp_path: Path) -> None:
    """For machines each by its name, times in milliseconds; what is not known is left out."""
    with logging_to(tmp_path) as said:
        RequestLines([])([RECORD])
        RequestLines([])([Record(method="GET", path="/nothing", status=404, error="unknown_url", seconds=0.001)])

    full, bare = said.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", full.pop("time"))
    assert full == {
        "level": "info",
        "event": "POST /v1/chat/completions 200 12.3 ms req_1 ci 96x96 png -> 96x96 fast demo:caption miss",
        "id": "req_1",
        "request": "POST /v1/chat/completions",
        "status": 200,
        "ms": 12.3,
        "key": "ci",
        "team": "web",
        "model": "demo",
        "preset": "caption",
        "cache": "miss",
        "streamed": True,
        "digests": ["ab" * 32],
        "picture_bytes": 393,
        "pictures": ["96x96 png -> 96x96 fast"],
        "stages": {"parse": 0.1, "engine": 10.0},
        "prompt_tokens": 7,
        "completion_tokens": 3,
    }
    assert bare.keys() == {"time", "level", "event", "id", "request", "status", "ms", "error"}


@pytest.mark.parametrize(("form", "start"), [("json", '{"time":'), ("text", "")])
def test_many_requests_have_a_line_each(tmp_path: Path, form: str, start: str) -> None:
    """Told together, they stand in their order, whatever their log is written for."""
    with logging_to(tmp_path, format=form) as said:
        RequestLines([])([Record(path=f"/{number}") for number in range(50)])

    lines = said.text.splitlines()
    assert all(line.startswith(start) and f"/{number} 499 " in line for number, line in enumerate(lines))
    assert len(lines) == 50


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(0.0, 0.0), (4e-6, 0.0), (6e-6, 0.01), (0.0123456, 12.35), (86_400.25, 86_400_250.0)]
)
def test_times_are_told_in_hundredths_of_a_millisecond(tmp_path: Path, seconds: float, milliseconds: float) -> None:
    """From the shortest stage to a day."""
    with logging_to(tmp_path) as said:
        RequestLines([])([Record(seconds=seconds, stages={"engine": seconds})])

    (line,) = said.lines
    assert (line["ms"], line["stages"]["engine"]) == (milliseconds, milliseconds)


def test_people_read_a_sentence(tmp_path: Path) -> None:
    """A line each, with the time of day and the level."""
    with logging_to(tmp_path, format="text") as said:
        RequestLines([])([RECORD])
        log.warning("something %s", "odd")

    first, second = said.text.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    POST /v1/chat/completions 200 12\.3 ms req_1 ci 96x96 .* miss", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING something odd", second)


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_goes_through_logging_comes_out_the_same_way(tmp_path: Path, form: str) -> None:
    """Our own calls, those of libraries, and warnings."""
    with logging_to(tmp_path, format=form) as said:
        log.info("one %d", 1)
        logging.getLogger("aiohttp.client").error("two")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("three", ResourceWarning, stacklevel=1)

    assert all(words in said.text for words in ("one 1", "two", "ResourceWarning: three"))
    if form == "json":
        assert [line["logger"] for line in said.lines] == ["gateway.some", "aiohttp.client", "py.warnings"]


@pytest.mark.parametrize(("level", "lines"), [("debug", 6), ("info", 4), ("warning", 2), ("error", 1)])
def test_the_level_decides_what_is_said(tmp_path: Path, level: str, lines: int) -> None:
    """For both ways in. Probes and scrapes that go well are worth a debug line."""
    with logging_to(tmp_path, level=level) as said:
        tell = RequestLines(["/health"])
        tell([Record(path=path, status=status) for path, status in (("/health", 200), ("/health", 503), ("/", 200))])
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(number, "x")

    assert len(said.lines) == lines + (level in ("debug", "info"))


def raised(error: BaseException) -> BaseException:
    """The error, as if it had been raised."""
    try:
        raise error  # noqa: TRY301
    except BaseException as caught:  # noqa: BLE001 - to be looked at
        return caught


def nested() -> BaseException:
    """A fault of ours because of a library's, in a group of faults."""
    try:
        try:
            raise KeyError(SECRET)  # noqa: TRY301
        except KeyError as cause:
            raise EngineUnavailable("The engine is away.") from cause
    except EngineUnavailable as error:
        return ExceptionGroup(SECRET, [error, ValueError(SECRET)])


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (raised(ValueError(SECRET)), "ValueError"),
        (raised(KeyError(SECRET)), "KeyError"),
        (raised(FileNotFoundError(2, "No such file", "/x")), "FileNotFoundError: [Errno 2] No such file: '/x'"),
        (raised(json.JSONDecodeError(SECRET, SECRET, 0)), "json.decoder.JSONDecodeError"),
        (nested(), "gateway.errors.EngineUnavailable: The engine is away."),
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_says_where_and_not_what_the_client_wrote(
    tmp_path: Path, form: str, error: BaseException, shown: str
) -> None:
    """A library's exception repeats what it was given; its kind and its place are enough."""
    with logging_to(tmp_path, format=form) as said:
        log.error("failed", exc_info=error)

    text = said.text if form == "text" else said.lines[0]["exception"]
    assert shown in text
    assert "Traceback (most recent call last):" in text
    assert SECRET not in said.text.replace("raise error", "")


def test_who_asks_for_prompts_gets_them(tmp_path: Path) -> None:
    """And with them what libraries and engines say of them; keys and pictures still not."""
    with logging_to(tmp_path, prompts=True) as said:
        log.error("failed", exc_info=raised(ValueError(SECRET)))
        log.error("answered 500", extra={"words": f"{SECRET} data:image/png;base64,QUJD"})

    fault, words = said.lines
    assert f"ValueError: {SECRET}" in fault["exception"]
    assert words["event"] == f"answered 500: {SECRET} data:image/png;base64,…"


def test_an_engines_words_are_left_out(tmp_path: Path) -> None:
    """They may be a client's; the line says how to see them."""
    with logging_to(tmp_path) as said:
        log.error("answered 500", extra={"words": SECRET})

    assert said.lines[0]["event"] == "answered 500 (log.prompts = true shows its words)"


async def test_asyncio_does_not_show_what_tasks_hold(tmp_path: Path) -> None:
    """Neither in what it says of a task that nobody asked for its fault, nor of one that took long."""

    async def fails() -> None:
        raise ValueError(SECRET)

    loop = asyncio.get_running_loop()
    task = loop.create_task(fails())
    await asyncio.wait({task})
    with logging_to(tmp_path) as said:
        context = {"message": "Task exception was never retrieved", "future": task, "exception": task.exception()}
        loop.default_exception_handler(context)
        logging.getLogger("asyncio").warning("Executing %r took %.3f seconds", task, 0.2)

    assert "Task exception was never retrieved" in said.text
    assert "took 0.200 seconds" in said.text
    assert SECRET not in said.text


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("INFO 11-27 08:47:12 [core.py:12] loading", "info"),
        ("(EngineCore pid=7) ERROR 11-27 08:47:12 [core.py:12] out of memory", "error"),
        ("2026-11-27 09:15:32,967 WARNING engines.serve: slow", "warning"),
        ("Traceback (most recent call last):", "info"),
        ("a long line in which, after more than sixty characters of talk, the word ERROR is met", "info"),
        ("\x1b[31mERROR\x1b[0m data:image/png;base64,QUJD", "error"),
    ],
)
def test_engines_are_carried_with_their_name_and_level(tmp_path: Path, line: str, level: str) -> None:
    """What they print is theirs, but for what may stand in no log."""
    with logging_to(tmp_path) as said:
        Output("demo", lambda _: None).read(line)

    (told,) = said.lines
    assert (told["model"], told["level"]) == ("demo", level)
    assert told["event"] == f"demo: {line}".replace("QUJD", "…")


@pytest.mark.parametrize(
    "path", ["/a\r\nINFO forged", "/\x1b[2J", "/data:image/png;base64,QUJDREVG", "/ag-" + "x" * 43]
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_path_forges_nothing_and_gives_nothing_away(tmp_path: Path, form: str, path: str) -> None:
    """It is one line whatever stands in it."""
    with logging_to(tmp_path, format=form) as said:
        RequestLines([])([Record(method="GET", path=path, status=404)])

    assert said.text.count("\n") == 1
    assert not set(said.text) & {"\r", "\x1b"}
    assert "QUJD" not in said.text
    assert "xxxx" not in said.text


def test_what_cannot_be_said_brings_nobody_down(tmp_path: Path) -> None:
    """Nor is it shown raw."""

    class Odd:
        def __str__(self) -> str:
            raise ValueError(SECRET)

    with logging_to(tmp_path, format="text") as said:
        (handler,) = [each for each in logging.getLogger().handlers if isinstance(each, pipeline.Handler)]
        for words, argument in (("%s", Odd()), ("%d", SECRET), ("%s", "still here")):
            handler.handle(logging.LogRecord("x", logging.INFO, "x", 1, words, (argument,), None))

    assert said.text.count("WARNING a line of the log could not be written\n") == 2
    assert "still here" in said.text
    assert SECRET not in said.text


def test_the_log_is_given_back(tmp_path: Path) -> None:
    """After the context nothing of it is left, so that a process can have another one."""
    before = (logging.getLogger().level, [*logging.getLogger().handlers])

    with logging_to(tmp_path, level="error"):
        assert pipeline.dropped() == 0

    assert (logging.getLogger().level, [*logging.getLogger().handlers]) == before
