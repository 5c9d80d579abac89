"""`altgate prepare`: has a published checkpoint made into one that an engine can load, by the engine's own program."""

import json
import signal
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
    place = out.resolve()  # now: what is prepared may take the current folder's place
    options = [f"--model={model}", f"--source={source}", f"--out={out}"]
    words = [f"--tokenizer={tokenizer}"] if tokenizer is not None else []
    # -P: the current folder may be the checkpoint's, whose code nobody is to run.
    command = [sys.executable, "-P", "-m", PROGRAM, *options, *words]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise ConfigError(last.removeprefix(MARK) if last.startswith(MARK) else done.stderr or _end(done.returncode))
    return f"[models.{model}]\nsource = {json.dumps(str(place), ensure_ascii=False)}"


def _end(code: int) -> str:
    """How a program ended that could say nothing."""
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    return f"The preparation {how}. Run it again."


def _named(name: str) -> str:
    """The catalogue's name of a model that may be given by an alias."""
    try:
        return routing.choose(name, routing.table(catalogue.models({}, "catalogue")), ()).model.name
    except ModelNotFound as error:
        raise ConfigError(error.message.replace("GET /v1/models lists", "`altgate models` lists")) from None
