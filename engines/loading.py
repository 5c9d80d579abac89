"""What loading a model can say: how far it is, and why it cannot go on."""

from collections.abc import Callable

Report = Callable[[str, float], None]
"""Told the phase of loading, and the fraction of all of it that is done."""


def unreported(phase: str, progress: float) -> None:
    """The report of what nobody waits for."""


class LoadError(Exception):
    """The model cannot be loaded. The message is one sentence that a client may read: no path of this machine."""
