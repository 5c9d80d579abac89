"""When the file that the keys stand in is read again."""

import os
from pathlib import Path

from gateway import reload
from gateway.auth import Keyring
from gateway.config import load
from gateway.errors import InvalidKey
from gateway.reload import KeyFile
from tests.flows.keys import section


def keyring_of(file: Path) -> tuple[Keyring, KeyFile]:
    """A keyring and its file, both as a gateway has them that has just been started."""
    key_file = KeyFile(file, lambda: load(file, {}, {}))
    return Keyring(load(file, {}, {}).keys), key_file


def knows(keyring: Keyring, key: str) -> bool:
    """Whether a request with that key would be let in."""
    try:
        return bool(keyring.caller([f"Bearer {key}".encode()]))
    except InvalidKey:
        return False


async def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    """Only what was the same twice is taken: half of a file is often a file without keys."""
    file = tmp_path / "altgate.toml"
    file.write_text(section("old", "old"))
    keyring, key_file = keyring_of(file)

    file.write_text("")
    await key_file.look(keyring)
    half = knows(keyring, "old")
    file.write_text(section("old", "old") + section("new", "new"))
    for _ in range(2):
        await key_file.look(keyring)

    assert half
    assert knows(keyring, "old")
    assert knows(keyring, "new")


async def test_a_file_that_never_is_the_same_twice_is_read_all_the_same(tmp_path: Path) -> None:
    """Soon, though it is written anew before each look; but neither without keys nor when it cannot be read, for it may
    be the half of one."""
    file = tmp_path / "altgate.toml"
    file.write_text(section("old", "old"))
    keyring, key_file = keyring_of(file)

    async def looks(text: str) -> None:
        for number in range(reload.RESTLESS + 1):
            file.write_text(f"# {'x' * number}\n{text}")
            await key_file.look(keyring)

    await looks("")
    await looks("[keys.new")
    half = knows(keyring, "old")
    await looks(section("new", "new"))

    assert half
    assert [knows(keyring, key) for key in ("old", "new")] == [False, True]


async def test_a_restless_file_is_read_within_the_time_that_is_promised() -> None:
    """Two seconds, from the look that comes last before the change."""
    assert reload.LOOK_EVERY + reload.SETTLES * (reload.RESTLESS - 1) < 2


async def test_keys_are_taken_away_by_a_file_that_never_is_the_same_twice(tmp_path: Path) -> None:
    """All of them: what has had none for so long is not the half of a file."""
    file = tmp_path / "altgate.toml"
    file.write_text(section("old", "old"))
    keyring, key_file = keyring_of(file)

    known = []
    for number in range(reload.RESTLESS + reload.KEYLESS):
        file.write_text("#" * number)
        await key_file.look(keyring)
        known.append(knows(keyring, "old"))

    assert known == [True] * (len(known) - 1) + [False]


async def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    """By a link that is turned, as in a cluster's mounted configuration, of the same size and time."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(section("key", name))
        os.utime(tmp_path / name, ns=(0, 0))
    link = tmp_path / "altgate.toml"
    link.symlink_to(tmp_path / "one")
    keyring, key_file = keyring_of(link)

    (tmp_path / "turned").symlink_to(tmp_path / "two")
    (tmp_path / "turned").replace(link)
    for _ in range(2):
        await key_file.look(keyring)

    assert knows(keyring, "two")
    assert not knows(keyring, "one")
