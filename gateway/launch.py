"""How an engine's process is started: its command line and its environment. Pure."""

import sys
from collections.abc import Mapping, Sequence

import msgspec

from gateway.catalogue import Argument, Model


def command(model: Model, socket: str, *, max_pixels: int, pictures: str | None = None) -> list[str]:
    """The command line of an engine of any kind: its module, the model's section and the socket's path.

    `pictures` is the folder out of which it may read pictures.
    """
    return [
        sys.executable,
        "-P",  # modules are ours and the installed ones, not what lies in the current folder
        "-m",
        f"engines.{model.engine}",
        f"--model={model.name}",
        f"--source={model.source}",
        f"--revision={model.revision}",
        f"--uds={socket}",
        *([f"--pictures={pictures}"] if pictures is not None else ()),
        "--exit-on-stdin-eof",
        *((*_bounds(model, max_pixels), *_tokenizer(model)) if model.engine == "vllm" else ()),
        *(word for key, value in model.args.items() for word in _option(key, value)),
    ]


def environment(models: Sequence[Model], environ: Mapping[str, str]) -> dict[str, str]:
    """The gateway's environment without the gateway's own settings and its keys to other servers."""
    keys = {model.api_key_env for model in models}
    kept = {name: value for name, value in environ.items() if not name.startswith("ALTGATE_") and name not in keys}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _bounds(model: Model, max_pixels: int) -> list[str]:
    """What the gateway lets through, for an engine that is to hold nothing else possible."""
    length = [f"--max-model-len={model.max_model_len}"] if model.max_model_len is not None else []
    return [*length, f"--max-pictures={model.max_pictures}", f"--max-pixels={max_pixels}"]


def _tokenizer(model: Model) -> list[str]:
    return [f"--tokenizer={model.tokenizer}"] if model.tokenizer is not None else []


def _option(key: str, value: Argument) -> list[str]:
    """An option in the words of a command line; a table as JSON."""
    match value:
        case bool():
            return [f"--{key}" if value else f"--no-{key}"]
        case list():
            return [f"--{key}", *map(str, value)]
        case dict():
            return [f"--{key}={msgspec.json.encode(value).decode()}"]
        case _:
            return [f"--{key}={value}"]
