"""What the owner and a worker say to each other: closed types, each message a frame whose size is bounded. Pure.

A worker's `Call` gets one `Reply`. What it is lent, an engine or a lease, it has until its `Leave`, which also takes
back a call that was not answered yet. A worker that ends has left everything.
"""

from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from gateway.auth import Caller, Key
from gateway.cache import Selection
from gateway.config import Config
from gateway.engine import Status
from gateway.images.budget import Purpose
from gateway.quota import Outcome, Wanted
from gateway.values import from_text, to_text
from gateway.wire import Amount

Respond = Callable[[bytes], Awaitable[bytes]]
"""Answers a question that is known by its name."""

MOST_FRAME = 64 * 2**20  # bytes
MOST_ANSWER = 2**20  # bytes of one worker's answer to a question
HEAD = 4  # bytes of a frame's length


class Message(Struct, frozen=True, tag=True):
    """One of those below."""


# --- what a worker may wish for ---


class Use(Message, frozen=True):
    """An engine, ready within `wait` seconds and not unloaded meanwhile. Lent; answered by `Done` or `Refused`."""

    engine: str
    wait: float


class Lease(Message, frozen=True):
    """To be the one who makes an answer. Lent; answered by `Done`."""

    name: str


class Memory(Message, frozen=True):
    """So many bytes of the memory for pictures. Lent; answered by `Done`, in the order of asking."""

    purpose: Purpose
    size: int


class EnsureReady(Message, frozen=True):
    """That an engine in use is ready within `wait` seconds. Answered by `Done` or `Refused`."""

    engine: str
    wait: float


class DeathNoticed(Message, frozen=True):
    """That the owner knows of an engine's death. Answered by `Expected`."""

    engine: str


class Charge(Message, frozen=True):
    """What a request takes out of its key's limits. Answered by `Charged`."""

    caller: Caller
    wanted: Wanted


class Find(Message, frozen=True):
    """A kept answer. Answered by `Found`."""

    key: str


class Forget(Message, frozen=True):
    """That kept answers are removed. Answered by `Amounts`."""

    selection: Selection


class Count(Message, frozen=True):
    """How many answers are kept. Answered by `Amounts`."""


class Gather(Message, frozen=True):
    """What every worker, and the owner, answer to a question of that name. Answered by `Gathered`."""

    name: str
    about: bytes


Wish = Use | Lease | Memory | EnsureReady | DeathNoticed | Charge | Find | Forget | Count | Gather


# --- what a worker says ---


class Call(Message, frozen=True):
    """A wish that is to be answered under that number."""

    id: int
    wish: Wish


class Leave(Message, frozen=True):
    """What was lent by that call is given back; `heard_at` is when the engine has last answered something."""

    id: int
    heard_at: float | None = None  # by the monotonic clock, which is one for all processes


class Serving(Message, frozen=True):
    """It can take connections. `cache` describes its cache."""

    cache: str


class Want(Message, frozen=True):
    """An engine is to be loaded in the background."""

    engine: str


class CannotAnswer(Message, frozen=True):
    """An engine has said of itself that it cannot answer any more."""

    engine: str


class Keep(Message, frozen=True):
    """An answer to be kept under its key, as it is written."""

    key: str
    data: bytes


class GiveBack(Message, frozen=True):
    """What was taken out of a key's limits."""

    caller: Caller
    taken: Wanted


class Answer(Message, frozen=True):
    """To a question; None when there is nothing of that name."""

    id: int
    data: bytes | None


FromWorker = Call | Leave | Serving | Want | CannotAnswer | Keep | GiveBack | Answer


# --- what the owner replies ---


class Done(Message, frozen=True):
    """It is so."""


class Refused(Message, frozen=True):
    """The engine cannot be had; the fields are those of `EngineUnavailable`."""

    message: str
    retry_after: float | None
    heals: bool


class Expected(Message, frozen=True):
    """How many seconds it will take, likely."""

    seconds: float


class Charged(Message, frozen=True):
    """What came of it."""

    outcome: Outcome


class Found(Message, frozen=True):
    """An answer as it is written, or none."""

    data: bytes | None


class Amounts(Message, frozen=True):
    """So many answers."""

    amount: Amount


class Gathered(Message, frozen=True):
    """The answers, and how many workers gave none."""

    answers: tuple[bytes, ...]
    missing: int


Result = Done | Refused | Expected | Charged | Found | Amounts | Gathered


# --- what the owner says ---


class Orders(Message, frozen=True):
    """The first message: all that a worker has to know.

    `sockets` are those of the engines, `pictures` is the folder in which its own for pictures is to lie, `keys` are
    those that hold now, whatever the configuration says.
    """

    config: Config
    keys: tuple[Key, ...]
    port: int
    sockets: dict[str, str]
    pictures: str
    statuses: dict[str, Status]


class Statuses(Message, frozen=True):
    """What the engines are doing."""

    statuses: dict[str, Status]


class Keys(Message, frozen=True):
    """From now on these keys hold."""

    keys: tuple[Key, ...]


class Question(Message, frozen=True):
    """To be answered by an `Answer`."""

    id: int
    name: str
    about: bytes


class Reply(Message, frozen=True):
    """To a call."""

    id: int
    result: Result


FromOwner = Orders | Statuses | Keys | Question | Reply


_encoder = msgspec.msgpack.Encoder(enc_hook=to_text)
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_from_owner = msgspec.msgpack.Decoder(FromOwner, dec_hook=from_text).decode


def framed(message: Message) -> bytes:
    """The message as it travels."""
    data = _encoder.encode(message)
    return len(data).to_bytes(HEAD, "big") + data
