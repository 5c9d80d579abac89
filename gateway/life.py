"""What can be said of a child's life: its state, its health, how it takes a nap."""

from collections.abc import Awaitable, Callable
from enum import StrEnum

from msgspec import Struct


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


Probe = Callable[[], Awaitable[Health | None]]
"""Asks the child how it is; None when it does not answer yet."""


class Nap(Struct, frozen=True):
    """How a child is put to sleep, which frees the device and keeps the rest, and how it is woken.

    Both raise OSError or TimeoutError when the child does not do it.
    """

    sleep: Callable[[], Awaitable[None]]
    wake: Callable[[], Awaitable[None]]
