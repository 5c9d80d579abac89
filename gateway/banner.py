"""What people read in the terminal: the table of models, and what `altgate serve` prints once it listens."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway import __version__, inventory
from gateway.catalogue import Model, catalogue_file
from gateway.config import Config

NAMES_SHOWN = 5


def text(config: Config, cache: str, port: int) -> str:
    """The banner. `cache` describes the cache in use, `port` is the one really listened on."""
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    base = f"http://{host}:{port}/v1"
    request = catalogue_file().parent / "demo" / "request.json"
    first = config.engines.preload[0] if config.engines.preload else config.models[0].name
    return "\n".join(
        [
            f"Altgate {__version__} is listening. Base URL: {base}",
            "",
            *_indented(table([("model", "engine", "device", "state"), *_served(config)])),
            *_indented(_unserved(config)),
            "",
            f"  cache   {cache}",
            f"  key     {_needed(config)}",
            "",
            "Try it (the picture is a drawn scene, which the demo model knows):",
            "",
            f"  curl {base}/chat/completions {_header(config)}-d @{_shown(request)}",
            "",
            "In your Python, change two lines:",
            "",
            f'  client = OpenAI(base_url="{base}", api_key="{_key(config)}")',
            f'  client.chat.completions.create(model="{first}", messages=...)',
            "",
        ]
    )


def _needed(config: Config) -> str:
    names = [key.caller.key_id for key in config.keys]
    if not names:
        return "none needed: any key, or none, is accepted"
    return f"needed; known are those of {', '.join(names[:NAMES_SHOWN])}{', …' * (len(names) > NAMES_SHOWN)}"


def _key(config: Config) -> str:
    return "ag-..." if config.keys else "any"


def _header(config: Config) -> str:
    return f"-H 'Authorization: Bearer {_key(config)}' " if config.keys else ""


def models(config: Config) -> str:
    """The table of `altgate models`, with a line below for each that cannot be served."""
    rows = [("model", "engine", "device", "memory", "state", "source", "aliases")]
    rows += [
        (
            model.name,
            model.engine,
            inventory.device(model),
            f"{model.memory / 10**9:.0f} GB" if model.memory else "",
            inventory.availability(model).state,
            _shown(Path(model.source)) if inventory.is_folder(model.source) else model.source,
            ", ".join(model.aliases),
        )
        for model in config.models
    ]
    return "\n".join([*table(rows), *_remedies(config)])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, each as wide as its widest cell."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _served(config: Config) -> Iterator[tuple[str, str, str, str]]:
    for model in config.models:
        found = inventory.availability(model)
        if found.ok or _is_wanted(model, config):
            yield model.name, model.engine, inventory.device(model), _state(model, found, config)


def _unserved(config: Config) -> list[str]:
    """One line for all models that are known, not asked for, and cannot be served here."""
    count = sum(not inventory.availability(model).ok and not _is_wanted(model, config) for model in config.models)
    return [f"and {count} that need what is not here: `altgate models` says what"] if count else []


def _is_wanted(model: Model, config: Config) -> bool:
    return bool(config.wanted & {model.name, *model.aliases})


def _state(model: Model, found: inventory.Availability, config: Config) -> str:
    if not found.ok:
        return f"cannot be served: {found.state}: {found.remedy}"
    if {model.name, *model.aliases} & set(config.engines.preload):
        return "loading now"
    return "loads at first use" if found.state in ("on disk", "downloaded") else found.state


def _remedies(config: Config) -> Iterator[str]:
    """A line for each thing that is missing, with the models that miss it."""
    missing: dict[tuple[str, str], list[str]] = {}
    for model in config.models:
        found = inventory.availability(model)
        if found.remedy is not None:
            missing.setdefault((found.state, found.remedy), []).append(model.name)
    for (state, remedy), names in missing.items():
        yield f"\n{', '.join(names)}: {state}. Remedy: {remedy}."


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _shown(path: Path) -> str:
    """A path from here where it lies below here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
