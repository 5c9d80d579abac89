"""What becomes known of one request while it is answered, for all who tell of it: headers, log, metrics, traces, usage.

Whoever answers fills it in; `middleware.py` makes it, and has all tellers hear of it once the request is over.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from gateway import ids
from gateway.auth import ANONYMOUS, Caller
from gateway.wire import Usage

Stage = Literal["receive", "parse", "fetch", "cache", "join", "queue", "decode", "engine"]
"""What a request is waiting for. `receive` is its body's coming, `parse` reading its JSON, `fetch` having its pictures'
bytes, by download or from base64, `cache` looking for an answer, and waiting while another process makes it, `join`
waiting for one that is made for somebody else, `queue` waiting until the engine can work on it, a load included,
`decode` making pictures plain, `engine` the engine's work."""

CacheResult = Literal["hit", "miss", "join", "bypass"]

CLIENT_LEFT = 499  # the status of a request whose client left before there was an answer


class Record(Struct, kw_only=True):
    """One request. A request is in one stage at a time, or in none.

    `model` is the model's own name, `digests` and `picture_bytes` are of its pictures as they came, `notes` say what is
    done to each; `cache` is None where no answer was looked for; `usage` is the answer's, whoever made it; `saved` is
    how long making it took where it was made for somebody else; `error` is the code of the error that the client was
    told; `prompt` is what the client wrote, where it is to be kept; `moments` are the stages with when they began and
    ended, where somebody wants them, and `span` is theirs. Times are in seconds, by `time.perf_counter`.
    """

    method: str = ""
    path: str = ""
    id: str = msgspec.field(default_factory=lambda: f"req_{ids.fresh()}")
    started: float = msgspec.field(default_factory=time.perf_counter)
    caller: Caller = ANONYMOUS
    model: str | None = None
    preset: str | None = None
    streamed: bool = False
    digests: Sequence[str] = ()
    picture_bytes: int = 0
    notes: Sequence[str] = ()
    cache: CacheResult | None = None
    usage: Usage | None = None
    saved: float | None = None
    moments: list[tuple[Stage, float, float]] | None = None
    span: object = None
    keeps_prompt: bool = False
    prompt: str | None = None
    status: int = CLIENT_LEFT
    error: str | None = None
    seconds: float = 0.0
    stages: dict[Stage, float] = msgspec.field(default_factory=dict[Stage, float])
    _stage: Stage | None = None
    _since: float = 0.0
    _entered: float = 0.0

    def resemble(self, other: "Record") -> None:
        """The same is asked as in the other request."""
        self.model, self.preset, self.streamed = other.model, other.preset, other.streamed
        self.digests, self.picture_bytes, self.notes = other.digests, other.picture_bytes, other.notes

    def enter(self, stage: Stage | None) -> None:
        """The request is in that stage from now on, and no longer in the one before."""
        now = time.perf_counter()
        if self._stage is not None:
            self.stages[self._stage] = self.stages.get(self._stage, 0.0) + now - self._since
            if self.moments is not None and stage is not self._stage:
                self.moments.append((self._stage, self._entered, now))
        if stage is not self._stage:
            self._entered = now
        self._stage, self._since = stage, now

    def elapsed(self) -> float:
        """Seconds since the request began."""
        return time.perf_counter() - self.started

    def worked(self) -> float:
        """The seconds of these in which its client was not still sending it."""
        return self.elapsed() - self.stages.get("receive", 0.0)

    def close(self) -> None:
        """The request is over."""
        self.enter(None)
        self.seconds = self.elapsed()

    def timing(self) -> str:
        """What each stage has taken so far, as a `Server-Timing` header has it."""
        self.enter(self._stage)
        parts = [f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in self.stages.items()]
        return ", ".join([*parts, f"total;dur={self.elapsed() * 1000:.2f}"])


Teller = Callable[[Sequence[Record]], None]
"""Tells of requests that are over, in their order: of all of them, or of none, and then it raises."""
