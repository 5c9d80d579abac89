"""What loading a model can say: how far it is, and why it cannot go on."""

from collections.abc import Callable
from typing import Final

LONGEST: Final = 100  # characters of what a file says of itself, in a sentence
Report = Callable[[str, float], None]
"""Told the phase of loading, and the fraction of all of it that is done."""


def unreported(phase: str, progress: float) -> None:
    """The report of what nobody waits for."""


class LoadError(Exception):
    """The model cannot be loaded. The message is one sentence that a client may read: no path of this machine."""


def shown(text: str) -> str:
    """A name out of a file that nobody vouches for, as a sentence can hold it: short, on one line, in ASCII."""
    plain = ascii(text[: LONGEST + 1])[1:-1]
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."
