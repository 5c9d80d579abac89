"""Keys that come and go while the gateway runs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.keys import section, with_key
from tests.flows.raw import send
from tests.services import Server, running_server, wait_for_log

NOTHING_LOADED = "[engines]\npreload = []\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the configuration stands."""
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Altgate with one key, and no model loaded."""
    with running_server(folder, settings=NOTHING_LOADED + section("old", "old")) as running:
        yield running


def write(folder: Path, text: str) -> None:
    """Another configuration."""
    (folder / "altgate.toml").write_text(NOTHING_LOADED + text)


def status(server: Server, key: str) -> int:
    """How a request with that key ends."""
    return send(server, "GET", "/v1/models", headers=with_key(key)).status


def wait_until(server: Server, key: str, wanted: int) -> None:
    """Returns when a request with that key ends so."""
    deadline = time.monotonic() + 30
    while status(server, key) != wanted:
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


def test_a_key_is_exchanged_without_a_restart(server: Server, folder: Path) -> None:
    """The new one holds soon, and the old one from the same moment on not any more."""
    assert [status(server, "old"), status(server, "new")] == [200, 401]

    write(folder, section("new", "new"))

    wait_until(server, "new", 200)
    assert status(server, "old") == 401
    wait_for_log(server, "The keys were read anew; there are 1")


WRONG = [
    ("[keys.new", "this is not TOML"),
    ('[keys.new]\ndigest = "ag-s3cret"', "'keys.new': digest: 'sha256:' and 64 hex digits"),
    (section("new", "new") + "[server]\nprot = 1", "Did you mean 'port'?"),
    (section("new", "new", 'models = ["dmeo"]'), "Did you mean 'demo'?"),
    (section("new", "new") + section("other", "new"), "are one key"),
]


def test_a_file_that_is_wrong_changes_nothing(server: Server, folder: Path) -> None:
    """The log says what is wrong with it, and no key; a file that is right again is taken."""
    for text, words in WRONG:
        write(folder, text)
        wait_for_log(server, words)
        assert [status(server, key) for key in ("old", "new")] == [200, 401]
    write(folder, section("new", "new"))

    wait_until(server, "new", 200)
    assert server.log.read_text().count("The keys stay as they are") == len(WRONG)
    assert "s3cret" not in server.log.read_text()


def test_a_file_that_vanishes_changes_nothing_and_an_empty_one_lets_nobody_in(server: Server, folder: Path) -> None:
    """No slip of an editor opens a gateway that asked for keys."""
    (folder / "altgate.toml").unlink()
    wait_for_log(server, "is not there any more")
    vanished = [status(server, key) for key in ("old", "any")]
    write(folder, "")
    wait_until(server, "old", 401)

    assert vanished == [200, 401]
    assert send(server, "GET", "/v1/models").status == 401


def test_a_gateway_without_keys_gets_its_first(tmp_path: Path) -> None:
    """From then on it asks everybody."""
    with running_server(tmp_path, settings=NOTHING_LOADED) as running:
        assert status(running, "any") == 200
        write(tmp_path, section("new", "new"))
        wait_until(running, "any", 401)
        assert status(running, "new") == 200


def test_the_last_key_can_be_taken_away_where_others_reach_the_gateway(tmp_path: Path) -> None:
    """A start without keys is refused there, but a key that is removed stops working all the same."""
    reachable = '[server]\nhost = "0.0.0.0"\n'
    with running_server(tmp_path, settings=NOTHING_LOADED + reachable + section("old", "old")) as running:
        assert status(running, "old") == 200
        write(tmp_path, reachable)

        wait_until(running, "old", 401)


def test_a_file_that_is_written_all_the_time_is_read(server: Server, folder: Path) -> None:
    """As by a tool that writes it anew several times a second, whether there is something new or not."""
    deadline = time.monotonic() + 30
    while status(server, "new") != 200:
        assert time.monotonic() < deadline, server.log.read_text()
        (folder / "next").write_text(f"# {time.monotonic()}\n{NOTHING_LOADED}{section('new', 'new')}")
        (folder / "next").replace(folder / "altgate.toml")
        time.sleep(0.05)

    assert status(server, "old") == 401
