"""Who is calling: keys, the teams they belong to, and what each of them may do.

A key is 256 bits of chance, so nobody finds it by guessing, and a fast digest of it (SHA-256) keeps it as well as a
slow one would: slow digests are for passwords, which people choose. With a fast one, a wrong key costs next to nothing.
"""

import difflib
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from gateway.catalogue import Model
from gateway.errors import InvalidKey
from gateway.values import ConfigError

KEY_PREFIX = "ag-"
KEY_BYTES = 32
LONGEST_HEADER = 1024  # bytes; a key of ours has 46
NAME = re.compile(r"[A-Za-z0-9][\w.@-]{0,63}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_BEARER = re.compile(rb"bearer +(?P<key>[^\s]+) *", re.IGNORECASE)

Limit = Annotated[int, Meta(ge=1, le=1_000_000)]


class KeyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as it is configured: its digest, never itself, and what it may do. What is absent is not limited."""

    digest: str | None = None
    team: str | None = None
    models: tuple[str, ...] | None = None
    requests_per_minute: Limit | None = None
    pictures_per_minute: Limit | None = None
    concurrent: Limit | None = None
    admin: bool = False

    def __post_init__(self) -> None:
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            # What stands there may be the key itself, so it is not repeated.
            raise ValueError("digest: 'sha256:' and 64 hex digits are wanted, as `altgate keys new` prints them")
        if self.team is not None and not NAME.fullmatch(self.team):
            raise ValueError("team: letters, digits and any of . _ @ - are well")


class Caller(Struct, frozen=True, kw_only=True):
    """Who makes a request: the name and team of its key, and what it may do. None means without a limit.

    `models` holds the models' own names, no aliases.
    """

    key_id: str
    team: str
    admin: bool = False
    models: frozenset[str] | None = None
    requests_per_minute: int | None = None
    pictures_per_minute: int | None = None
    concurrent: int | None = None

    def visible(self, models: Mapping[str, Model]) -> Mapping[str, Model]:
        """Those of the models that the caller may use: the others do not exist for it."""
        if self.models is None:
            return models
        return {name: model for name, model in models.items() if model.name in self.models}


ANONYMOUS = Caller(key_id="", team="")  # everyone, while no keys are configured


class Key(Struct, frozen=True):
    """The digest of a key, and whose it is."""

    digest: bytes
    caller: Caller


class Keyring:
    """The keys that hold. Where there never were any, none is needed and everyone is `ANONYMOUS`."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._needed = False
        self._callers: Mapping[bytes, Caller] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[Key]) -> bool:
        """From now on these hold; whether that changes anything. To take the last one away lets nobody in."""
        # How long a look-up takes depends on what was sent through its digest alone. Whoever measures may learn of the
        # digests that are known; from these nobody gets back to a key.
        before, self._callers = self._callers, {key.digest: key.caller for key in keys}
        self._needed = self._needed or bool(self._callers)
        return self._callers != before

    def caller(self, authorization: Sequence[bytes]) -> Caller:
        """Who sends these `Authorization` headers.

        Raises:
            InvalidKey: there is not exactly one with a key that is known; the message repeats nothing of it.
        """
        if not self._needed:
            return ANONYMOUS
        if not authorization:
            raise InvalidKey("There is no API key. Send yours in the header 'Authorization: Bearer ...'.")
        if len(authorization) > 1:
            raise InvalidKey("There are several Authorization headers. Send one.")
        found = _BEARER.fullmatch(authorization[0]) if len(authorization[0]) <= LONGEST_HEADER else None
        if found is None:
            raise InvalidKey("The Authorization header holds no API key. Send 'Authorization: Bearer ' and your key.")
        caller = self._callers.get(digest(found["key"]))
        if caller is None:
            raise InvalidKey("The API key is not known here. Correct it, or ask whoever runs this gateway for one.")
        return caller


def digest(key: bytes) -> bytes:
    """The digest by which a key is known."""
    return hashlib.sha256(key).digest()


def new_key() -> str:
    """A key that nobody had before."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def section(name: str, key: str, team: str | None = None) -> str:
    """The lines of a configuration that make a key known.

    Raises:
        ConfigError: the name or the team cannot be used.
    """
    for word in (name, team or name):
        _check_name(word)
    lines = [f'[keys."{name}"]', f'digest = "sha256:{digest(key.encode()).hex()}"']
    return "\n".join([*lines, *([f'team = "{team}"'] if team else [])])


def keys(configured: Mapping[str, KeyConfig], models: Mapping[str, Model]) -> tuple[Key, ...]:
    """The configured keys; `models` are all there are, under their names and aliases.

    Raises:
        ConfigError: a key lacks its digest or shares it, or has a name or names a model that cannot be.
    """
    made = tuple(_key(name, entry, models) for name, entry in configured.items())
    owners: dict[bytes, str] = {}
    for key in made:
        other = owners.setdefault(key.digest, key.caller.key_id)
        if other != key.caller.key_id:
            raise ConfigError(
                f"'keys.{key.caller.key_id}' and 'keys.{other}' are one key. Make another for one of them."
            )
    return made


def _key(name: str, entry: KeyConfig, models: Mapping[str, Model]) -> Key:
    _check_name(name)
    if entry.digest is None:
        raise ConfigError(f"'keys.{name}' has no digest. `altgate keys new {name}` makes a key and prints its section.")
    caller = Caller(
        key_id=name,
        team=entry.team or name,
        admin=entry.admin,
        models=_allowed(name, entry.models, models),
        requests_per_minute=entry.requests_per_minute,
        pictures_per_minute=entry.pictures_per_minute,
        concurrent=entry.concurrent,
    )
    return Key(bytes.fromhex(entry.digest.removeprefix("sha256:")), caller)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(f"keys: the name {name!r} cannot be used. Letters, digits and any of . _ @ - are well.")


def _allowed(key: str, names: Sequence[str] | None, models: Mapping[str, Model]) -> frozenset[str] | None:
    if names is None:
        return None
    if unknown := next((name for name in names if name not in models), None):
        near = difflib.get_close_matches(unknown, models, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"'keys.{key}.models' names an unknown model '{unknown}'.{hint}")
    return frozenset(models[name].name for name in names)
