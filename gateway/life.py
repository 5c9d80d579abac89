"""What can be said of a child's life: its state, its health, how it takes a nap."""

from collections.abc import Awaitable, Callable
from enum import StrEnum

from msgspec import Struct, field


class State(StrEnum):
    """What a child is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    FAILED = "failed"


class Health(Struct, frozen=True):
    """What a child says of itself. `progress` is a fraction of 1."""

    ready: bool
    phase: str | None = None
    progress: float | None = None
    device: str | None = None


class Spans(Struct):
    """How often something has been done, and how long that took together, in seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """It has been done once more."""
        self.count += 1
        self.seconds += seconds


class Past(Struct):
    """What a child has been through since we know it. `swaps` are loads that others had to make room for."""

    loads: Spans = field(default_factory=Spans)
    wakings: Spans = field(default_factory=Spans)
    swaps: Spans = field(default_factory=Spans)
    restarts: int = 0


Probe = Callable[[], Awaitable[Health | None]]
"""Asks the child how it is; None when it does not answer yet."""


class Nap(Struct, frozen=True):
    """How a child is put to sleep, which frees the device and keeps the rest, and how it is woken.

    Both raise OSError or TimeoutError when the child does not do it.
    """

    sleep: Callable[[], Awaitable[None]]
    wake: Callable[[], Awaitable[None]]
