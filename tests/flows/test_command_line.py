"""The command line, as a user types it."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engines.demo import scenes
from gateway.auth import Keyring
from gateway.config import load
from tests import pictures
from tests.engines.blip import hub
from tests.pictures import SCENES, data_url

ROOT = Path(__file__).parents[2]
Known = list[tuple[bytes, str]]


def altgate(*arguments: str, cwd: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """What a command prints, and how it ends."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environ},
    )


def test_caption_prints_the_caption_of_a_file(tmp_path: Path, known: Known) -> None:
    """One file, one line, no server."""
    (tmp_path / "photo.png").write_bytes(known[0][0])

    done = altgate("caption", "photo.png", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, f"{known[0][1]}\n")


def test_caption_takes_several_files_and_a_url_and_goes_on_after_a_bad_one(tmp_path: Path, known: Known) -> None:
    """Captions come in the order of the arguments; what has none is told on stderr, and the exit code says so."""
    for number, (png, _) in enumerate(known[:2]):
        (tmp_path / f"{number}.png").write_bytes(png)
    (tmp_path / "bad.png").write_bytes(b"nothing")

    done = altgate("caption", "1.png", "bad.png", "missing.png", data_url(known[2][0]), "0.png", cwd=tmp_path)

    lines = done.stdout.splitlines()
    assert lines[0] == f"1.png: {known[1][1]}"
    assert lines[1].endswith(f": {known[2][1]}")
    assert lines[2] == f"0.png: {known[0][1]}"
    assert "bad.png: " in done.stderr
    assert "missing.png: No such file" in done.stderr
    assert done.returncode == 1


def test_caption_prints_json_lines(tmp_path: Path, known: Known) -> None:
    """With --json each picture is an object, errors included; a preset is chosen by the model's name."""
    (tmp_path / "a.png").write_bytes(known[0][0])

    done = altgate("caption", "--json", "--model", "demo:alt_text", "a.png", "b.png", cwd=tmp_path)

    good, bad = map(json.loads, done.stdout.splitlines())
    assert good == {"source": "a.png", "model": "demo:alt_text", "caption": known[0][1]}
    assert bad["error"]
    assert done.returncode == 1


def test_caption_says_what_was_done_to_pictures(tmp_path: Path, known: Known) -> None:
    """With --verbose, on stderr; the caption alone stands on stdout."""
    (tmp_path / "a.png").write_bytes(known[0][0])

    done = altgate("caption", "--verbose", "a.png", cwd=tmp_path)

    assert done.stdout == f"{known[0][1]}\n"
    assert "a.png: 192x192 png -> 96x96 fast" in done.stderr.splitlines()


def test_caption_reads_no_more_than_it_may_and_speaks_of_files(tmp_path: Path) -> None:
    """What has no end is refused at the limit, what has no name in UTF-8 is named all the same."""
    odd = os.fsdecode(b"bad\xff.html")
    (tmp_path / odd).write_bytes(b"<!doctype html>")

    done = altgate("caption", "--json", "/dev/zero", odd, cwd=tmp_path)

    endless, page = map(json.loads, done.stdout.splitlines())
    assert "20 MiB" in endless["error"]
    assert "HTML" in page["error"]
    assert "messages[0]" not in done.stdout
    assert "Traceback" not in done.stderr


def test_caption_whose_reader_leaves_ends_in_order(short_path: Path, known: Known) -> None:
    """`altgate caption … | head -1` leaves neither a traceback nor an engine nor a folder behind."""
    (short_path / "a.png").write_bytes(known[0][0])
    command = f"{sys.executable} -m gateway.cli caption --json a.png a.png a.png a.png | head -1"
    environ = {**os.environ, "TMPDIR": str(short_path), "PYTHONPATH": str(ROOT)}

    done = subprocess.run(command, shell=True, cwd=short_path, capture_output=True, text=True, check=True, env=environ)

    assert json.loads(done.stdout)["caption"] == known[0][1]
    assert "Traceback" not in done.stderr
    assert not list(short_path.glob("altgate-*"))


def test_caption_with_an_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    """The same sentence as over HTTP."""
    (tmp_path / "a.png").write_bytes(pictures.png(SCENES[0]))

    done = altgate("caption", "--model", "dmeo", "a.png", cwd=tmp_path)

    assert done.returncode == 1
    assert "Did you mean 'demo'? `altgate models` lists" in done.stderr


def test_caption_with_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path: Path) -> None:
    """The weights are not there and cannot be had: one sentence with the remedy."""
    (tmp_path / "a.png").write_bytes(pictures.png(SCENES[0]))

    done = altgate(
        "caption",
        "--model",
        "blip-base",
        "a.png",
        cwd=tmp_path,
        HF_HOME=str(tmp_path),
        HF_ENDPOINT="http://127.0.0.1:9",
    )

    assert done.returncode == 1
    assert re.search(r"'blip-base' cannot be served: .*hub cannot be reached.*source", done.stderr), done.stderr


def test_caption_downloads_a_model_of_the_hub_at_first_use(tmp_path: Path, known: Known) -> None:
    """A name on the hub is downloaded, loaded and used; `altgate models` says so afterwards."""
    (tmp_path / "a.png").write_bytes(known[0][0])
    (tmp_path / "altgate.toml").write_text(
        "[models.tiny]\nengine = 'blip'\nsource = 'org/tiny'\nargs = { dtype = 'float32', threads = 1 }"
    )
    with hub.serving(ROOT / "engines/demo/checkpoint", "org/tiny") as address:
        environ = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
        before = altgate("models", cwd=tmp_path, **environ)
        done = altgate("caption", "--model", "tiny", "a.png", cwd=tmp_path, **environ)
        after = altgate("models", cwd=tmp_path, **environ)

    assert (done.returncode, done.stdout) == (0, f"{known[0][1]}\n")
    assert "downloads at first use" in before.stdout.splitlines()[-1]
    assert "downloaded" in after.stdout.splitlines()[-1]


def test_models_lists_what_can_be_served(tmp_path: Path) -> None:
    """Name, engine, device, state, source and aliases, from the catalogue and the configuration."""
    (tmp_path / "altgate.toml").write_text(
        '[models.blip-base]\naliases = ["gpt-4o"]\n[models.ours]\nengine = "blip"\nsource = "/nowhere"'
    )

    done = altgate("models", cwd=tmp_path, HF_HOME=str(tmp_path))

    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert done.returncode == 0
    assert "on disk" in rows["demo"]
    assert "downloads at first use" in rows["blip-base"]
    assert "gpt-4o" in rows["blip-base"]
    assert "no checkpoint" in rows["ours"]
    assert "Remedy: put one into /nowhere" in done.stdout


def test_check_finds_nothing_wrong_on_the_defaults(tmp_path: Path) -> None:
    """Every line is ok, and the exit code is 0."""
    done = altgate("check", cwd=tmp_path, ALTGATE_SERVER__PORT="0")

    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())
    assert "PyTorch" in done.stdout


def test_check_names_what_is_wrong_with_its_remedy(tmp_path: Path) -> None:
    """A Redis that is not there and a folder without a checkpoint: two remedies, and the exit code 1."""
    settings = f'[cache]\nredis = "unix://{tmp_path}/nothing.sock"\n[models.ours]\nengine = "blip"\nsource = "/nowhere"'
    (tmp_path / "altgate.toml").write_text(settings)

    done = altgate("check", cwd=tmp_path, ALTGATE_SERVER__PORT="0")

    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert done.returncode == 1
    assert ["Redis" in wrong[0], "ours" in wrong[1], len(wrong)] == [True, True, 2]


@pytest.mark.parametrize("command", ["serve", "caption a.png", "models", "check"])
def test_a_configuration_that_cannot_be_used_is_refused(tmp_path: Path, command: str) -> None:
    """Every command says which key of which file, and what was meant."""
    (tmp_path / "altgate.toml").write_text("[server]\nprot = 1")

    done = altgate(*command.split(), cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr == "Error: altgate.toml: unknown key 'server.prot'. Did you mean 'port'?\n"


def test_serve_on_a_taken_port_says_so(tmp_path: Path) -> None:
    """One sentence with the remedy, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = altgate("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)

    assert done.returncode == 1
    assert "Choose another port with --port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_says_where_sockets_cannot_lie(tmp_path: Path, workers: str) -> None:
    """A long path of the folder for temporary files is told at once, with the remedy, and not by each engine."""
    folder = tmp_path / ("long" * 25)
    folder.mkdir()

    done = altgate("serve", "--port", "0", cwd=tmp_path, TMPDIR=str(folder), ALTGATE_SERVER__WORKERS=workers)

    assert done.returncode == 1
    assert f"cannot lie in {folder}" in done.stderr
    assert "Set TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_beyond_loopback_is_refused(tmp_path: Path) -> None:
    """Without a key nobody else may come in; the lines that are missing are shown."""
    done = altgate("serve", "--host", "0.0.0.0", cwd=tmp_path)

    assert done.returncode == 1
    assert "altgate keys new NAME" in done.stderr
    assert "[keys.NAME]" in done.stderr


def test_a_new_key_is_printed_once_with_the_section_to_paste(tmp_path: Path) -> None:
    """What is printed can be pasted as it is; no file is written, and the key stands in none."""
    done = altgate("keys", "new", "website", "--team", "web", cwd=tmp_path)
    key, *_ = done.stdout.splitlines()
    section = done.stdout[done.stdout.index("[keys.") : done.stdout.index("\n\nA gateway")]

    assert re.fullmatch(r"ag-[\w-]{43}", key)
    assert done.stdout.count(key) == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "altgate.toml").write_text(section)
    (known,) = load(tmp_path / "altgate.toml", {}, {}).keys
    assert (known.caller.key_id, known.caller.team) == ("website", "web")
    assert Keyring([known]).caller([f"Bearer {key}".encode()]) == known.caller


@pytest.mark.parametrize("arguments", [["a b"], ["a", "--team", "b:c"]])
def test_a_key_with_a_name_that_cannot_be_used_is_not_made(tmp_path: Path, arguments: list[str]) -> None:
    """One sentence, and no key."""
    done = altgate("keys", "new", *arguments, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert "Letters, digits" in done.stderr


def test_the_scenes_of_the_tests_were_not_trained_on() -> None:
    """The hundred scenes that the figures rest on are held out from training."""
    assert all(scenes.is_held_out(scene) for scene in SCENES)
