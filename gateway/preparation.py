"""`altgate prepare`: has a published checkpoint made into one that an engine can load, by the engine's own program."""

import json
import subprocess
import sys
from pathlib import Path

from gateway import catalogue, routing
from gateway.errors import ModelNotFound
from gateway.values import ConfigError

PROGRAM = "engines.cogvlm.prepare"  # the one family that needs it
MARK = "altgate: "  # begins the line that is for people


def prepared(name: str, source: Path, tokenizer: Path | None, out: Path) -> str:
    """Prepares a checkpoint of a model of the catalogue; returns the section of altgate.toml that serves it.

    Raises:
        ConfigError: it cannot be done; the message says why.
    """
    model = _named(name)
    options = [f"--model={model}", f"--source={source}", f"--out={out}"]
    words = [f"--tokenizer={tokenizer}"] if tokenizer is not None else []
    done = subprocess.run(  # noqa: S603 - our own interpreter and program
        [sys.executable, "-m", PROGRAM, *options, *words], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ConfigError(last.removeprefix(MARK) if last.startswith(MARK) else done.stderr)
    return f"[models.{model}]\nsource = {json.dumps(str(out.resolve()), ensure_ascii=False)}"


def _named(name: str) -> str:
    """The catalogue's name of a model that may be given by an alias."""
    try:
        return routing.choose(name, routing.table(catalogue.models({}, "catalogue")), ()).model.name
    except ModelNotFound as error:
        raise ConfigError(error.message.replace("GET /v1/models lists", "`altgate models` lists")) from None
