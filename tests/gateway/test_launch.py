"""How an engine's process is started: its command line and its environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.catalogue import Model
from gateway.launch import command, environment

BLIP = Model(name="blip-base", engine="blip", source="org/blip", revision="v2", args={"dtype": "float32", "threads": 2})
VLLM = Model(name="big", engine="vllm", source="/models/big", max_model_len=4096, max_pictures=3)


def test_every_kind_is_started_the_same_way() -> None:
    """The module of its kind, what to load, what it is called, where to listen; and it ends with us."""
    assert command(BLIP, "/run/0.sock", max_pixels=1000) == [
        sys.executable,
        "-P",
        "-m",
        "engines.blip",
        "--model=blip-base",
        "--source=org/blip",
        "--revision=v2",
        "--uds=/run/0.sock",
        "--exit-on-stdin-eof",
        "--dtype=float32",
        "--threads=2",
    ]


@pytest.mark.parametrize("model", [BLIP, VLLM], ids=["blip", "vllm"])
def test_nothing_of_the_current_folder_is_run(model: Model, tmp_path: Path) -> None:
    """A module that lies there is not taken for Python's own."""
    (tmp_path / "argparse.py").write_text("raise SystemExit('run')")
    start = command(model, "/run/0.sock", max_pixels=1000)

    done = subprocess.run([*start, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_vllm_is_told_what_the_gateway_lets_through() -> None:
    """So that it holds nothing larger possible."""
    words = command(VLLM, "/run/0.sock", max_pixels=1000)

    assert words[3] == "engines.vllm"
    assert {"--max-model-len=4096", "--max-pictures=3", "--max-pixels=1000"} <= set(words)


def test_engines_are_told_where_pictures_lie() -> None:
    """Where the gateway puts them as files."""
    for model in (BLIP, VLLM):
        assert "--pictures=/shm/x" in command(model, "/run/0.sock", max_pixels=1, pictures="/shm/x")


def test_vllm_is_told_where_the_tokenizer_is() -> None:
    """Where a model has one of its own, and not otherwise."""
    model = Model(name="m", engine="vllm", source="s", tokenizer="org/words", args={"x": 1})

    assert command(model, "/run/0.sock", max_pixels=1)[-2:] == ["--tokenizer=org/words", "--x=1"]
    assert not [word for word in command(VLLM, "/run/0.sock", max_pixels=1) if word.startswith("--tokenizer")]


def test_options_are_written_as_a_command_line_has_them() -> None:
    """A truth value as a flag or its opposite, a list as words, a table as JSON; a value never becomes an option."""
    args = {"a": True, "b": False, "c": ["x", 1], "d": {"k": [1, {"n": "ü"}]}, "e": "--model=other", "f": 0.5}
    model = Model(name="m", engine="blip", source="s", args=args)  # type: ignore[arg-type]

    *_, a, b, c, x, one, d, e, f = command(model, "/run/0.sock", max_pixels=1)

    assert (a, b, c, x, one, e, f) == ("--a", "--no-b", "--c", "x", "1", "--e=--model=other", "--f=0.5")
    assert d.startswith("--d=")
    assert json.loads(d.removeprefix("--d=")) == {"k": [1, {"n": "ü"}]}


def test_an_engine_gets_none_of_our_settings_and_keys() -> None:
    """The gateway's own variables and the keys to other servers stay with it; all else is passed on."""
    far = Model(name="far", engine="remote", source="far", urls=("http://g/v1",), api_key_env="FAR_KEY")
    given = {"PATH": "/bin", "ALTGATE_CACHE__REDIS": "redis://:secret@h", "FAR_KEY": "secret", "HF_TOKEN": "its own"}

    passed = environment([VLLM, far], given)

    assert passed == {"PATH": "/bin", "HF_TOKEN": "its own", "PYTHONUNBUFFERED": "1"}
