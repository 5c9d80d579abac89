"""The script that makes what `docker compose up` needs."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from gateway import config
from gateway.auth import Keyring
from tests.containers.deployment import ROOT, compose


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as it touches, in a folder whose name has a space."""
    folder = tmp_path / "my altgate"
    shutil.copytree(ROOT / "containers", folder / "containers")
    return folder


def run(checkout: Path, **environ: str) -> str:
    """Runs the script from elsewhere; what it prints."""
    command = ["sh", str(checkout / "containers/first-run.sh")]
    environ = {"PATH": "/usr/bin:/bin", **environ}
    done = subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, check=True)
    return done.stdout


def loaded(checkout: Path) -> config.Config:
    """The configuration as the gateway's container reads it."""
    environ = {
        "ALTGATE_SERVER__HOST": "0.0.0.0",
        "ALTGATE_CACHE__REDIS_FILE": str(checkout / "secrets/redis_url"),
    }
    return config.load(checkout / "config/altgate.toml", environ, {})


def test_the_key_that_it_shows_is_let_in(checkout: Path) -> None:
    """As an administrator's; the file holds its digest alone, and the curl line that is shown holds the key."""
    told = run(checkout)
    key = next(word for word in told.split() if word.startswith("ag-"))

    caller = Keyring(loaded(checkout).keys).caller([f"Bearer {key}".encode()])

    assert (caller.key_id, caller.admin) == ("first", True)
    assert f'-H "Authorization: Bearer {key}" -d @engines/demo/request.json' in told
    assert not [file for file in checkout.rglob("*") if file.is_file() and key in file.read_text()]


def test_gateway_and_redis_are_given_the_same_password(checkout: Path) -> None:
    """Of 256 bits, another each time; the host is the service's name."""
    run(checkout)
    word, password = (checkout / "secrets/redis.conf").read_text().split()
    shutil.rmtree(checkout / "secrets")
    run(checkout)

    assert (word, len(password)) == ("requirepass", 64)
    assert password not in (checkout / "secrets/redis.conf").read_text()
    other = (checkout / "secrets/redis.conf").read_text().split()[1]
    assert loaded(checkout).cache.redis == f"redis://:{other}@redis:6379/0"
    assert "redis" in compose()["services"]


@pytest.mark.parametrize("lost", ["redis.conf", "redis_url"])
def test_a_run_that_was_broken_off_is_made_good(checkout: Path, lost: str) -> None:
    """One of the two files alone would keep the gateway from Redis for ever."""
    run(checkout)
    (checkout / "secrets" / lost).unlink()
    run(checkout)

    _, password = (checkout / "secrets/redis.conf").read_text().split()
    assert loaded(checkout).cache.redis == f"redis://:{password}@redis:6379/0"


def test_every_secret_of_the_compose_file_is_made(checkout: Path) -> None:
    """Closed to others of the machine by their folder; a container's user, who sees the file alone, can read it."""
    run(checkout, HF_TOKEN="hf_mine")

    for secret in compose()["secrets"].values():
        file = checkout / secret["file"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE((checkout / "secrets").stat().st_mode) == 0o700
    assert (checkout / "secrets/hf_token").read_text() == "hf_mine\n"


def test_a_second_run_changes_nothing(checkout: Path) -> None:
    """Neither keys nor passwords nor what was changed by hand; and it shows no key."""
    run(checkout)
    with (checkout / "config/altgate.toml").open("a") as file:
        file.write("# mine\n")
    before = {file: file.read_text() for file in checkout.rglob("*") if file.is_file()}

    told = run(checkout)

    assert {file: file.read_text() for file in checkout.rglob("*") if file.is_file()} == before
    assert "ag-" not in told
    assert "docker compose up" in told
