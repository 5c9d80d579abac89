"""The models known by name: what a model is, the entries that ship with Altgate, and what a configuration adds."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yarl
from msgspec import Meta, Struct

from gateway.values import Bytes, ConfigError, from_text

EngineKind = Literal["blip", "vllm", "remote"]
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,199}", re.ASCII)
PICTURE_SIZE: Mapping[EngineKind, int] = {"blip": 384}  # pixels a side, where neither catalogue nor configuration says
RESERVED_ARGUMENTS = {
    "api-key", "exit-on-stdin-eof", "host", "max-pictures", "model", "port", "revision", "served-model-name", "source",
    "uds",
}  # fmt: skip

Scalar = str | int | float | bool
Argument = Scalar | list[Scalar] | dict[str, Any]


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in the catalogue or in the configuration; what is absent comes from the catalogue."""

    engine: EngineKind | None = None
    source: str | None = None
    urls: tuple[str, ...] | None = None
    api_key_env: str | None = None
    revision: str | None = None
    licence: str | None = None
    description: str | None = None
    memory: Bytes | None = None
    aliases: tuple[str, ...] | None = None
    picture_size: Annotated[int, Meta(ge=1)] | None = None
    max_pictures: Annotated[int, Meta(ge=1, le=100)] | None = None
    max_model_len: Annotated[int, Meta(ge=1)] | None = None
    special_tokens: tuple[Annotated[str, Meta(min_length=2)], ...] | None = None
    args: dict[str, Argument] | None = None

    def __post_init__(self) -> None:
        if self.source == "":
            raise ValueError("source: a folder or a hub name is wanted")
        if reserved := sorted(RESERVED_ARGUMENTS & {_dashed(name) for name in self.args or {}}):
            raise ValueError(f"args: '{reserved[0]}' is set by the gateway itself")
        for url in self.urls or ():
            _check_url(url)


class Model(Struct, frozen=True, kw_only=True):
    """A model that can be asked for.

    `source` is a folder or a hub name; for a remote engine, what the other server calls the model, at each of `urls`.
    `api_key_env` names the environment variable with the key for them. `picture_size` is the side in pixels of what the
    model sees (None: any size), `memory` what loading it takes, `special_tokens` are spellings that mean more than text
    to this model, `args` the engine's own options.
    """

    name: str
    engine: EngineKind
    source: str
    urls: tuple[str, ...] = ()
    api_key_env: str | None = None
    revision: str = "main"
    licence: str = "unknown"
    description: str = ""
    memory: Bytes | None = None
    aliases: tuple[str, ...] = ()
    picture_size: int | None = None
    max_pictures: int = 1
    max_model_len: int = 512
    special_tokens: tuple[str, ...] = ()
    args: dict[str, Argument] = msgspec.field(default_factory=dict[str, Argument])


def catalogue_file() -> Path:
    """The catalogue of known models, found without importing any engine."""
    spec = find_spec("engines")
    if spec is None or spec.origin is None:
        raise ConfigError("The package `engines` is not installed beside `gateway`. Install altgate as a whole.")
    return Path(spec.origin).parent / "catalog.toml"


def models(configured: Mapping[str, ModelConfig], origin: str) -> tuple[Model, ...]:
    """Every model of the catalogue and of the configuration, which is read from `origin`.

    Raises:
        ConfigError: a model lacks what it needs.
    """
    catalogue = _catalogue()
    names = [*catalogue, *(name for name in configured if name not in catalogue)]
    return tuple(_model(name, catalogue.get(name), configured.get(name), origin) for name in names)


def _catalogue() -> dict[str, ModelConfig]:
    file = catalogue_file()
    entries = msgspec.toml.decode(file.read_bytes(), type=dict[str, ModelConfig], dec_hook=from_text)
    return {name: _bundled(entry, file.parent) for name, entry in entries.items()}


def _bundled(entry: ModelConfig, folder: Path) -> ModelConfig:
    """A source that begins with "./" lies in the package."""
    if entry.source is None or not entry.source.startswith("./"):
        return entry
    return msgspec.structs.replace(entry, source=str(folder / entry.source.removeprefix("./")))


def _model(name: str, known: ModelConfig | None, configured: ModelConfig | None, origin: str) -> Model:
    fields: dict[str, Any] = {"name": name}
    for entry in (known, configured):
        if entry is not None:
            fields |= {key: value for key, value in msgspec.structs.asdict(entry).items() if value is not None}
    if fields.get("engine") == "remote":
        fields.setdefault("source", name)
    _check_complete(fields, origin)
    if str(fields["source"]).startswith("~"):
        fields["source"] = str(Path(fields["source"]).expanduser())
    fields["args"] = {_dashed(key): value for key, value in fields.get("args", {}).items()}
    # vLLM knows the length by this name, so it may be set by either.
    if isinstance(length := fields["args"].pop("max-model-len", None), int):
        fields["max_model_len"] = length
    fields.setdefault("picture_size", PICTURE_SIZE.get(fields["engine"]))
    return Model(**fields)


def _check_complete(fields: Mapping[str, Any], origin: str) -> None:
    place = f"{origin}: 'models.{fields['name']}'"
    for key in ("engine", "source"):
        if key not in fields:
            raise ConfigError(
                f"{place} is not in the catalogue and has no '{key}'. "
                'Add engine = "vllm" and source = "a folder or a hub name".'
            )
    remote = fields["engine"] == "remote"
    if remote and not fields.get("urls"):
        raise ConfigError(f"{place} is remote and has no 'urls'. Add urls = [\"http://its-host:8001/v1\"].")
    if not remote and (odd := [key for key in ("urls", "api_key_env") if fields.get(key)]):
        raise ConfigError(f"{place} has '{odd[0]}', which only a remote engine uses. Add engine = \"remote\".")
    if remote and fields.get("args"):
        raise ConfigError(f"{place} is remote and has 'args'. Set them where that engine is started.")


def _check_url(url: str) -> None:
    try:
        parsed = yarl.URL(url)
        (parsed.host or "").encode("idna")
    except ValueError:
        parsed = yarl.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.user or parsed.query or parsed.fragment:
        raise ValueError(f"urls: {url!r} is no address such as 'http://gpu-1:8001/v1'; a key goes into api_key_env")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
