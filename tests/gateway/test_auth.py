"""Whose key it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import auth
from gateway.auth import ANONYMOUS, Caller, Key, Keyring, digest, new_key
from gateway.errors import InvalidKey
from gateway.values import ConfigError

KEY = new_key().encode()
CI = Caller(key_id="ci", team="web")


def ring(**others: Any) -> Keyring:
    """A keyring that knows one key."""
    return Keyring([Key(digest(KEY), CI)], **others)


def test_a_key_is_256_bits_of_chance_that_fit_in_a_header() -> None:
    """The prefix says whose it is to those who search for leaked keys."""
    made = {new_key() for _ in range(100)}

    assert len(made) == 100
    assert all(len(key) == 46 and key.startswith("ag-") and key.isascii() for key in made)


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER   "])
def test_a_key_is_known_by_its_digest(scheme: bytes) -> None:
    """The scheme's case does not matter, as HTTP has it."""
    assert ring().caller([scheme + KEY]) == CI


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer "],
        [KEY],
        [b"Basic " + KEY],
        [b"Bearer" + KEY],
        [b"Bearer " + KEY[:-1]],
        [b"Bearer " + KEY + b"x"],
        [b"Bearer " + KEY + b" " + KEY],
        [b"Bearer " + KEY.swapcase()],
        [b"Bearer " + KEY, b"Bearer " + KEY],
        [b"Bearer wrong", b"Bearer " + KEY],
        [b"Bearer ' OR '1'='1"],
        [b"Bearer '; DROP TABLE keys; --"],
        [b"Bearer " + digest(KEY)],
        [b"Bearer sha256:" + digest(KEY).hex().encode()],
        [b"Bearer " + KEY + b"\x00"],
        ["Bearer schlüssel-🔑".encode()],
        [b"Bearer \xff\xfe"],
        [b"Bearer " + b"x" * 2**20],
        [b"Bearer " + KEY + b" " * 2**20],
    ],
)
def test_what_is_not_exactly_one_known_key_is_refused(headers: list[bytes]) -> None:
    """401, with nothing of what was sent in the message."""
    with pytest.raises(InvalidKey) as caught:
        ring().caller(headers)

    assert (caught.value.status, caught.value.code, caught.value.heals) == (401, "invalid_api_key", False)
    assert KEY.decode() not in caught.value.message
    assert "DROP" not in caught.value.message


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_no_bytes_open_the_door(headers: list[bytes]) -> None:
    """Whatever is sent, it is refused in order."""
    with pytest.raises(InvalidKey):
        ring().caller(headers)


@pytest.mark.parametrize("headers", [[], [b"Bearer any"], [b"Bearer"], [b"a", b"b"]])
def test_without_keys_nobody_is_asked(headers: list[bytes]) -> None:
    """Everyone is the same nobody."""
    assert Keyring([]).caller(headers) is ANONYMOUS


def test_keys_that_are_replaced_hold_at_once() -> None:
    """A new one is known, an old one is not, and it is told whether anything changed."""
    other = new_key().encode()
    keyring = ring()

    assert keyring.replace([Key(digest(other), CI)])
    assert not keyring.replace([Key(digest(other), CI)])
    assert keyring.caller([b"Bearer " + other]) == CI
    with pytest.raises(InvalidKey):
        keyring.caller([b"Bearer " + KEY])


def test_to_take_the_last_key_away_closes_the_door() -> None:
    """An emptied file must not open a gateway that asked for keys; from the start without keys, it is open."""
    keyring = ring()
    keyring.replace([])

    with pytest.raises(InvalidKey):
        keyring.caller([])


@pytest.mark.parametrize("name", ["", "a b", 'x"]\n[y', "ключ", "a:b", "-a", "x" * 65])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    """It stands in a configuration, in logs and in Redis."""
    with pytest.raises(ConfigError, match="Letters, digits"):
        auth.section(name, KEY.decode())
