"""The line that the log has of each request."""

from collections.abc import Collection, Sequence
from functools import lru_cache

import structlog
from msgspec import Struct

from gateway.logs.scrub import printable, scrubbed
from gateway.logs.settings import FIELDS
from gateway.record import Record

LONGEST_PATH = 200  # characters
SMALLEST_ERROR = 400


class Fields(Struct, kw_only=True, omit_defaults=True):
    """What machines read of a request; what is not known is left out. The first three are the log's to say."""

    time: str = ""
    level: str = ""
    event: str = ""
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


class RequestLine:
    """Writes it. A `Teller`.

    It has what was done, for people in a sentence and for machines in fields; never a header of the client's, the query
    of its URL, or a body. What goes well at one of the `quiet` paths is said at debug level.
    """

    def __init__(self, quiet: Collection[str]) -> None:
        self._quiet = quiet
        self._log = structlog.get_logger().bind()

    def __call__(self, record: Record) -> None:
        """Writes one."""
        is_quiet = record.path in self._quiet and record.status < SMALLEST_ERROR
        what = _shown(record.method, record.path)
        (self._log.debug if is_quiet else self._log.info)(_sentence(what, record), **{FIELDS: _fields(what, record)})


def _sentence(what: str, record: Record) -> str:
    name = f"{record.model}:{record.preset}" if record.preset else record.model
    words = [", ".join(record.notes), name, record.cache, record.error]
    return " ".join(
        [
            f"{what} {record.status} {record.seconds * 1000:.1f} ms {record.id} {record.caller.key_id or '-'}",
            *filter(None, words),
        ]
    )


@lru_cache(maxsize=1024)
def _shown(method: str, path: str) -> str:
    return printable(scrubbed(f"{method} {path}")).replace("\n", "\\n")[:LONGEST_PATH]


def _fields(what: str, record: Record) -> Fields:
    usage, caller = record.usage, record.caller
    return Fields(
        id=record.id,
        request=what,
        status=record.status,
        ms=_milliseconds(record.seconds),
        key=caller.key_id,
        team=caller.team,
        model=record.model,
        preset=record.preset,
        cache=record.cache,
        error=record.error,
        streamed=record.streamed,
        digests=record.digests,
        picture_bytes=record.picture_bytes,
        pictures=record.notes,
        stages={stage: _milliseconds(seconds) for stage, seconds in record.stages.items()},
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
        prompt=record.prompt,
    )


def _milliseconds(seconds: float) -> float:
    return int(seconds * 100_000 + 0.5) / 100
