"""What the owner and its workers say to each other, as it travels."""

from pathlib import Path

import pytest

from gateway import config
from gateway.auth import Caller
from gateway.bucket import Bucket
from gateway.cache import Selection
from gateway.engine import Status
from gateway.life import State
from gateway.quota import Outcome, Wanted
from gateway.wire import Amount
from gateway.workers import messages
from gateway.workers.messages import HEAD, Message, framed

CALLER = Caller(key_id="k", team="t", models=frozenset({"a", "b"}), requests_per_minute=3)
EXAMPLE = Path(__file__).parents[3] / "altgate.example.toml"
SETTINGS = """
[server]
workers = 3
keep_alive = "250ms"
[images]
max_decoded = "1537MiB"
fetch_timeout = 0.3
[keys.web]
digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
models = ["demo"]
concurrent = 4
[models.demo]
args = { threads = 1, ratio = 1e-9, deep = { list = [1, "two", true] } }
price = { pictures = "0.000125" }
"""

FROM_WORKER: list[Message] = [
    messages.Call(7, messages.Use("demo", 1.5)),
    messages.Call(2**40, messages.Lease("team:x")),
    messages.Call(1, messages.Memory("decoded", 2**40)),
    messages.Call(1, messages.EnsureReady("demo", 0.0)),
    messages.Call(1, messages.DeathNoticed("demo")),
    messages.Call(1, messages.Charge(CALLER, Wanted(requests=1, place="p"))),
    messages.Call(1, messages.Find("key")),
    messages.Call(1, messages.Forget(Selection(scope="t", digest="0" * 64))),
    messages.Call(1, messages.Count()),
    messages.Call(1, messages.Gather("metrics", b"\x00\xff")),
    messages.Leave(1, heard_at=1.5),
    messages.Serving("in memory"),
    messages.Want("demo"),
    messages.CannotAnswer("demo"),
    messages.Keep("key", b"\x00\xff"),
    messages.GiveBack(CALLER, Wanted(pictures=2)),
    messages.Answer(3, None),
]
FROM_OWNER: list[Message] = [
    messages.Statuses({"demo": Status(State.READY, can_serve=True), "other": Status(State.FAILED, reason="cheese")}),
    messages.Keys(()),
    messages.Question(4, "metrics", b""),
    messages.Reply(1, messages.Done()),
    messages.Reply(1, messages.Refused("Not now.", 1.5, heals=False)),
    messages.Reply(1, messages.Expected(2.5)),
    messages.Reply(1, messages.Charged(Outcome(Bucket(3, 5), None, "pictures"))),
    messages.Reply(1, messages.Found(b"answer")),
    messages.Reply(1, messages.Amounts(Amount(entries=1, bytes=2, complete=False))),
    messages.Reply(1, messages.Gathered((b"a", b""), 1)),
]


def read(message: Message) -> bytes:
    """The message's frame, without its head, which tells the size."""
    frame = framed(message)
    assert int.from_bytes(frame[:HEAD], "big") == len(frame) - HEAD
    return frame[HEAD:]


@pytest.mark.parametrize("message", FROM_WORKER, ids=lambda message: type(message).__name__)
def test_what_a_worker_says_is_what_the_owner_hears(message: Message) -> None:
    """Every kind of message, every field of it."""
    assert messages.decode_from_worker(read(message)) == message


@pytest.mark.parametrize("message", FROM_OWNER, ids=lambda message: type(message).__name__)
def test_what_the_owner_says_is_what_a_worker_hears(message: Message) -> None:
    """Every kind of message, every field of it."""
    assert messages.decode_from_owner(read(message)) == message


@pytest.mark.parametrize("settings", ["", SETTINGS, EXAMPLE.read_text()], ids=["defaults", "others", "example"])
def test_a_worker_has_the_configuration_of_its_owner(tmp_path: Path, settings: str) -> None:
    """To the last digit, whatever kinds of values it has: a worker reads neither the file nor the flags."""
    file = tmp_path / "altgate.toml"
    file.write_text(settings)
    whole = config.load(file, {}, {"server": {"port": 9}})
    orders = messages.Orders(whole, whole.keys, 9, {"demo": "/a.sock"}, "/dev/shm/x", {})

    heard = messages.decode_from_owner(read(orders))

    assert heard == orders
    assert isinstance(heard, messages.Orders)
    assert [type(value) for value in vars_of(heard.config.server)] == [type(value) for value in vars_of(whole.server)]


def vars_of(section: config.ServerConfig) -> list[object]:
    """The values of a section."""
    return [getattr(section, name) for name in section.__struct_fields__]
