"""docker-compose.yml and the Dockerfile, read as far as tests need them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")


class Stage(NamedTuple):
    """What a stage of the Dockerfile says of the containers that run it. `user` is None where it says nothing."""

    environ: Mapping[str, str]
    entrypoint: list[str]
    command: list[str]
    health: list[str]
    port: str | None
    user: str | None
    folder: str | None


def compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file with its merges and variables filled in, as compose reads it."""
    text = _VARIABLE.sub(lambda found: (variables or {}).get(found["name"]) or found["default"], COMPOSE.read_text())
    read: dict[str, Any] = YAML(typ="safe").load(text)
    return read


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with what follows it, continued lines joined and comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def stages() -> dict[str, Stage]:
    """The stages by name."""
    return {name: _stage(said) for name, said in _split().items()}


def _split() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            name = rest.rpartition(" ")[2]
        found.setdefault(name, []).append((word, rest))
    return found


def _stage(said: list[tuple[str, str]]) -> Stage:
    last = dict(said)
    settings = " ".join(rest for word, rest in said if word == "ENV")
    return Stage(
        environ=dict(setting.split("=", 1) for setting in settings.split()),
        entrypoint=json.loads(last.get("ENTRYPOINT", "[]")),
        command=json.loads(last.get("CMD", "[]")),
        health=json.loads(last["HEALTHCHECK"].partition("CMD ")[2]) if "HEALTHCHECK" in last else [],
        port=last.get("EXPOSE"),
        user=last.get("USER"),
        folder=last.get("WORKDIR"),
    )


def line(service: Mapping[str, Any]) -> list[str]:
    """The command line with which a service's container is started."""
    stage = stages()[service["build"]["target"]] if "build" in service else None
    entrypoint = service.get("entrypoint", stage.entrypoint if stage else [])
    return [*entrypoint, *service.get("command", stage.command if stage else [])]


def option(words: list[str], name: str) -> str:
    """The value of an option that is written `--name=value`."""
    (value,) = (word.partition("=")[2] for word in words if word.startswith(f"--{name}="))
    return value
