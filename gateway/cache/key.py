"""The key of a request. Pure.

A key covers everything that shapes an answer: whatever field a request or a model may get in future is in it, unless
`NOT_IN_KEY` says why it is not. Pictures stand in it by the digest of their bytes, so base64 and URL of one picture are
one. Before the digest of all this stand whose the answer is, which nothing that a client sends can reach, the model and
the pictures: so what is to be removed is found by its key alone, and no list has to be kept.
"""

import hashlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from gateway import __version__, wire
from gateway.catalogue import Model

VERSION = 3
SHORT = 32  # hex digits: of a digest, what nobody meets by chance
NOT_IN_KEY = {
    "stream": "an answer is the same words, whole or streamed",
    "stream_options": "it says what the stream carries, not what the answer is",
    "model": "whatever alias was used, the model's source and options are in the key instead",
    "cache_salt": "it follows from the scope, which stands before the digest",
    "messages": "they are in the key with digests in the pictures' places",
    "aliases": "other names of one model",
    "licence": "for people",
    "description": "for people",
    "memory": "for people",
    "price": "for people",
    "api_key_env": "it says who asks the other server, not what",
}


class Loaded(Struct, frozen=True):
    """A model as keys know it: its name as `scoped` writes it, and a digest of all else that shapes its answers."""

    name: str
    digest: str


def loaded(model: Model) -> Loaded:
    """The model for keys. Its other names make no difference."""
    fields = {name: value for name, value in msgspec.structs.asdict(model).items() if name not in NOT_IN_KEY}
    return Loaded(scoped(model.name), _digest(fields))


def key(
    scope: str, request: wire.ChatRequest, *, model: Loaded, digests: Sequence[str], prompt: str, pipeline: str
) -> str:
    """The key of a request: its scope, its model, its pictures and a digest of everything, with colons between them.

    Args:
        scope: whose the answer is, a team's name; nobody else finds it.
        request: what the engine will be asked, in closed types.
        model: the model that will be asked.
        digests: the pictures' digests, in order.
        prompt: the digest of the preset's file, empty without one.
        pipeline: names our own processing of pictures.
    """
    plain = msgspec.to_builtins(request)
    turns, fields = plain["messages"], {name: value for name, value in plain.items() if name not in NOT_IN_KEY}
    pictures = iter(digests)
    for part in (part for turn in turns for part in turn.get("content", ()) if part["type"] == "image_url"):
        part["image_url"]["url"] = next(pictures)
    digest = _digest([VERSION, __version__, pipeline, prompt, model.digest, turns, fields])
    return ":".join([scoped(scope), model.name, ".".join(map(short, digests)), digest])


class Parts(Struct, frozen=True):
    """What a key says: scope and model as `scoped` writes them, pictures as `short` does, the digest in full."""

    scope: str
    model: str
    pictures: list[str]
    digest: str


def read(key: str) -> Parts | None:
    """What a key says, None of one that is not ours."""
    match key.split(":"):
        case [scope, model, pictures, digest]:
            return Parts(scope, model, pictures.split("."), digest)
    return None


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def scoped(name: str) -> str:
    """How a name is written in a key: whatever it is, without a colon and what patterns or Redis give a meaning."""
    return quote(name, safe="")


def short(digest: str) -> str:
    """How a picture's digest is written in a key."""
    return digest[:SHORT]


def canonical(value: Any) -> bytes:
    """The one way to write a value of JSON's kinds: MessagePack, each with its type and length, no two alike.

    Objects keep their order: an engine fills in a schema's properties in theirs. An integer beyond 64 bits, which only
    JSON can write, has it all written as JSON, behind a byte that MessagePack never uses.
    """
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return b"\xc1" + msgspec.json.encode(value)
