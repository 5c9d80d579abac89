"""The lines that the log has of requests."""

import logging
from collections.abc import Collection, Sequence
from functools import lru_cache

import structlog
from msgspec import Struct

from gateway.logs.scrub import printable, scrubbed
from gateway.logs.settings import LINES
from gateway.record import Record

LONGEST_PATH = 200  # characters
SMALLEST_ERROR = 400
WHOLE = 2.0**52  # a float as large has no fraction: adding it and taking it away rounds, four times as fast as round()


class Line(Struct, omit_defaults=True):
    """What machines read of a request; what is not known is left out. The first two are the log's to say."""

    time: str
    level: str
    event: str
    id: str
    request: str
    status: int
    ms: float
    key: str = ""
    team: str = ""
    model: str | None = None
    preset: str | None = None
    cache: str | None = None
    error: str | None = None
    streamed: bool = False
    digests: Sequence[str] = ()
    picture_bytes: int = 0
    pictures: Sequence[str] = ()
    stages: dict[str, float] = {}
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt: str | None = None


class RequestLines:
    """Writes them. A `Teller`.

    A line has what was done, for people in a sentence and for machines in fields; never a header of the client's, the
    query of its URL, or a body. What goes well at one of the `quiet` paths is said at debug level.
    """

    def __init__(self, quiet: Collection[str]) -> None:
        self._quiet = quiet
        self._log = structlog.get_logger().bind()

    def __call__(self, records: Sequence[Record]) -> None:
        """Writes those of these requests."""
        quiet = [record for record in records if record.path in self._quiet and record.status < SMALLEST_ERROR]
        loud = [record for record in records if record.path not in self._quiet or record.status >= SMALLEST_ERROR]
        self._say(logging.INFO, loud)
        self._say(logging.DEBUG, quiet)

    def _say(self, level: int, records: Sequence[Record]) -> None:
        if records and self._log.is_enabled_for(level):
            self._log.log(level, "requests", **{LINES: [_line(record) for record in records]})


def _line(record: Record) -> Line:
    what, caller, usage = _shown(record.method, record.path), record.caller, record.usage
    milliseconds = record.seconds * 1000
    notes = f" {', '.join(record.notes)}" if record.notes else ""
    outcome = _outcome(record.model, record.preset, record.cache, record.error)
    return Line(  # by position: by name it takes four times as long
        "",
        "",
        f"{what} {record.status} {milliseconds:.1f} ms {record.id} {caller.key_id or '-'}{notes}{outcome}",
        record.id,
        what,
        record.status,
        (milliseconds * 100 + WHOLE - WHOLE) / 100,
        caller.key_id,
        caller.team,
        record.model,
        record.preset,
        record.cache,
        record.error,
        record.streamed,
        record.digests,
        record.picture_bytes,
        record.notes,
        {stage: (seconds * 100_000 + WHOLE - WHOLE) / 100 for stage, seconds in record.stages.items()},
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens,
        record.prompt,
    )


@lru_cache(maxsize=1024)
def _shown(method: str, path: str) -> str:
    return printable(scrubbed(f"{method} {path}")).replace("\n", "\\n")[:LONGEST_PATH]


@lru_cache(maxsize=1024)
def _outcome(model: str | None, preset: str | None, cache: str | None, error: str | None) -> str:
    """The end of the sentence, with the space before it."""
    name = f"{model}:{preset}" if preset else model
    return "".join(f" {word}" for word in (name, cache, error) if word)
