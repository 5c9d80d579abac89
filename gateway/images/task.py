"""What the gateway and a decoding worker say to each other. Pure: no I/O."""

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

import msgspec
from msgspec import Struct

from gateway.images.encode import Form
from gateway.images.plan import Plan
from gateway.images.sniff import Format

LONGEST = 4096  # bytes of a message
ANSWER = 9  # bytes of an answer: how it went, and how many bytes of the result were used

READY_LOCKED, READY_UNLOCKED = b"L", b"U"


class Task(Struct, frozen=True, array_like=True):
    """A picture to be decoded, of `encoded` bytes, into at most `room` bytes.

    The worker may use `memory` bytes more than it has, and the processor for `seconds`. Two descriptors come along: of
    the memory that holds the file, and of the memory for the result.
    """

    format: Format
    plan: Plan
    form: Form
    encoded: int
    room: int
    memory: int
    seconds: float

    @property
    def name(self) -> str:
        """Names the plan, in a few letters: what becomes of a picture under it."""
        return hashlib.sha256(msgspec.msgpack.encode(self.plan)).hexdigest()[:12]


class Outcome(IntEnum):
    """How it went."""

    DONE = 0
    DAMAGED = 1
    TOO_MUCH_MEMORY = 2


Reason = Literal["damaged", "memory", "time", "deadly"]


def encode(task: Task) -> bytes:
    """The task as a message."""
    return msgspec.msgpack.encode(task)


def decode(message: bytes) -> Task:
    """The task in a message."""
    return msgspec.msgpack.decode(message, type=Task)


def answer(outcome: Outcome, used: int = 0) -> bytes:
    """An answer as a message."""
    return bytes([outcome]) + used.to_bytes(ANSWER - 1, "big")


def read_answer(message: bytes) -> tuple[Outcome, int]:
    """The outcome in a message, and how many bytes were used.

    Raises:
        ValueError: it is no answer.
    """
    if len(message) != ANSWER:
        raise ValueError("an answer has another length")
    return Outcome(message[0]), int.from_bytes(message[1:], "big")


def command_line(formats: Sequence[Format], most_memory: int) -> list[str]:
    """What a worker is started with."""
    return [",".join(formats), str(most_memory)]
