"""Settings in the environment: `ALTGATE_SECTION__KEY`, `ALTGATE_KEYS__NAME__KEY`, each with its value or, with `_FILE`
at its end, with the path of a file that holds the value, which is how containers are given secrets.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from gateway.values import ConfigError

PREFIX = "ALTGATE_"
CLIENT_KEY = "ALTGATE_KEY"  # the key of our own commands that ask a running gateway; no setting
FILE = "_file"
LONGEST = 65536  # characters of a file that holds one value

Table = dict[str, Any]


def settings(environ: Mapping[str, str]) -> Table:
    """The sections that the environment sets.

    Raises:
        ConfigError: a variable names no setting, or its file cannot be read.
    """
    table: Table = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable == CLIENT_KEY:
            continue
        section, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
        if section == "models":
            raise ConfigError(f"environment: {variable}: models are set in the file alone. Put it into altgate.toml.")
        if not separator:
            raise ConfigError(
                f"environment: {variable} has no section. Write {PREFIX}SECTION__KEY, for example {PREFIX}SERVER__PORT."
            )
        place = table.setdefault(section, {})
        if section == "keys":
            name, _, key = key.partition("__")
            place = place.setdefault(name, {})
        _set(place, key, value, variable)
    return table


def _set(place: Table, key: str, value: str, variable: str) -> None:
    if key.endswith(FILE):
        key, value = key.removesuffix(FILE), _read(value, variable)
    if key in place:
        raise ConfigError(f"environment: {variable} sets what {variable[: -len(FILE)]} sets. Remove one of the two.")
    place[key] = _scalar(value)


def _read(path: str, variable: str) -> str:
    """What the file holds, without the end of its line."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a Path cannot be told how much to read
            text = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"environment: {variable}: the file {path!r} cannot be read ({cause}). Correct it.") from None
    if not text.strip() or len(text) > LONGEST:
        raise ConfigError(f"environment: {variable}: the file {path!r} holds no value. Write the value into it.")
    return text.rstrip("\r\n")


def _scalar(text: str) -> object:
    """Numbers, truth values and lists as TOML writes them; anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
