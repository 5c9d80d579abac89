"""From what is said, by us and by libraries, to the lines of the log: lists of steps.

What is said through structlog has fields. What is said through `logging`, all but the line of a request, comes from
anywhere, and loses on its way what may not stand in a log.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.logs.scrub import printable, scrubbed
from gateway.logs.settings import LINES, MODEL, WORDS, LogConfig
from gateway.logs.sink import Sink
from gateway.logs.trouble import told

_INSIDES = re.compile(r"<.*>", re.DOTALL)
_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}

_encoder = msgspec.json.Encoder(enc_hook=repr)


@contextmanager
def running(config: LogConfig, descriptor: int | None = None) -> Iterator[Sink]:
    """All that is said goes to standard error, or to that file descriptor, as it is configured, until the end."""
    place = sys.stderr.fileno() if descriptor is None else descriptor
    level, steps = logging.getLevelNamesMapping()[config.level.upper()], _steps(config, is_terminal=os.isatty(place))
    sink = Sink(place, lambda lost: _warning(steps, f"{lost} lines of the log were dropped: nobody took them"))
    structlog.configure(
        processors=[structlog.processors.add_log_level, *steps],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sink),
    )
    root, handler = logging.getLogger(), Handler(sink, config, steps)
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    try:
        yield sink
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        root.setLevel(before)
        structlog.reset_defaults()
        sink.flush()


def dropped() -> int:
    """How many lines nobody took."""
    return sum(handler.sink.dropped for handler in logging.getLogger().handlers if isinstance(handler, Handler))


class Handler(logging.Handler):
    """Takes what is said through `logging`."""

    def __init__(self, sink: Sink, config: LogConfig, steps: Sequence[Processor]) -> None:
        super().__init__()
        self.sink = sink
        self._steps: list[Processor] = [_Clean(with_words=config.prompts), *steps]

    def emit(self, record: logging.LogRecord) -> None:
        """Writes its line. What cannot be said brings nobody down, and is not shown raw as `logging` would."""
        try:
            self.sink.put(self._line(record))
        except Exception:  # noqa: BLE001 - whatever an argument's __str__ raises
            self.sink.put(_warning(self._steps[1:], "a line of the log could not be written"))

    def _line(self, record: logging.LogRecord) -> Any:
        level = record.levelname.lower()
        event: Any = {"event": record.getMessage(), "level": level, "logger": record.name, "exc_info": record.exc_info}
        event |= {name: value for name in (MODEL, WORDS) if (value := getattr(record, name, None)) is not None}
        return _stepped(self._steps, event)


def _warning(steps: Sequence[Processor], words: str) -> Any:
    return _stepped(steps, {"event": words, "level": "warning"})


def _stepped(steps: Sequence[Processor], event: Any) -> Any:
    for step in steps:
        event = step(None, "", event)
    return event


class _Lines:
    """What structlog takes for a logger: lines that are ready."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = sink.put


class _Clean:
    """Takes out of an event what may not stand in the log."""

    def __init__(self, *, with_words: bool) -> None:
        self._with_words = with_words

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """One step."""
        text = event["event"]
        if event["logger"] == "asyncio":
            text = _INSIDES.sub("<…>", text)  # it shows tasks with what they hold
        if words := event.pop(WORDS, None):
            text += f": {words}" if self._with_words else " (log.prompts = true shows its words)"
        event["event"] = scrubbed(text)
        trouble = event.pop("exc_info")
        if trouble and trouble[1] is not None:
            event["exception"] = scrubbed(told(trouble[1], with_words=self._with_words))
        return event


def _steps(config: LogConfig, *, is_terminal: bool) -> list[Processor]:
    """The last steps: the time, and the line."""
    as_text = config.format == "text" or (config.format == "auto" and is_terminal)
    if not as_text:
        return [_Clock(), _json]
    colours = _COLOURS if is_terminal and not os.environ.get("NO_COLOR") else {}
    return [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="time"), _Plain(colours)]


class _Clock:
    """Notes the time in UTC, as ISO 8601 has it; of each second all but the fraction is written once."""

    def __init__(self) -> None:
        self._second = (0, "")

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """One step."""
        second, nanoseconds = divmod(time.time_ns(), 10**9)
        written = self._second  # of a thread that comes between, all or nothing
        if written[0] != second:
            written = self._second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        event["time"] = f"{written[1]}.{nanoseconds // 1000:06d}Z"
        return event


def _json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    if (lines := event.get(LINES)) is not None:
        time, level = event["time"], event["level"]
        for line in lines:
            line.time, line.level = time, level
        return _encoder.encode_lines(lines)
    return _encoder.encode({**{name: event.pop(name) for name in ("time", "level", "event")}, **event}) + b"\n"


class _Plain:
    """A line for people: its time, its level and what is said; the fields are for machines."""

    def __init__(self, colours: dict[str, str]) -> None:
        self._colours = colours

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> bytes:
        """The last step."""
        level = event["level"]
        label = f"{level.upper():7}"
        if (colour := self._colours.get(level)) is not None:
            label = f"{colour}{label}\x1b[0m"
        if (lines := event.get(LINES)) is not None:
            said = [line.event for line in lines]
        else:
            said = ["\n".join(filter(None, [event["event"], event.get("exception")]))]
        return "".join(f"{event['time']} {label} {printable(each)}\n" for each in said).encode(errors="replace")
