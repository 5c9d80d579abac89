"""The models known by name: what a model is, the entries that ship with Altgate, and what a configuration adds."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yarl
from msgspec import Meta, Struct

from gateway.images.plan import Filter, Rule, Sizing
from gateway.usage.settings import Price
from gateway.values import Bytes, ConfigError, from_text

EngineKind = Literal["blip", "vllm", "remote"]
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,199}", re.ASCII)
PICTURE_SIZE: Mapping[EngineKind, int] = {"blip": 384, "vllm": 1024, "remote": 1024}  # pixels a side, where nobody says
MAX_MODEL_LEN: Mapping[EngineKind, int] = {"blip": 512}  # tokens, likewise; other engines know it of themselves
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
ARGUMENT = re.compile(r"[a-z0-9][\w.-]*", re.ASCII)
RESERVED_ARGUMENTS = {
    "allowed-local-media-path", "api-key", "exit-on-stdin-eof", "host", "max-pictures", "model", "pictures", "port",
    "revision", "served-model-name", "source", "tokenizer", "uds",
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
    picture_rule: Rule | None = None
    picture_size: Annotated[int, Meta(ge=1)] | None = None
    picture_filter: Filter | None = None
    picture_tiles: Annotated[int, Meta(ge=1, le=100)] | None = None
    picture_pixels: Annotated[int, Meta(ge=1)] | None = None
    max_pictures: Annotated[int, Meta(ge=1, le=100)] | None = None
    max_model_len: Annotated[int, Meta(ge=1)] | None = None
    special_tokens: tuple[Annotated[str, Meta(min_length=2)], ...] | None = None
    tokenizer: Annotated[str, Meta(min_length=1)] | None = None
    forms: tuple[Annotated[str, Meta(min_length=1)], ...] | None = None
    args: dict[str, Argument] | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.source == "":
            raise ValueError("source: a folder or a hub name is wanted")
        if self.api_key_env is not None and not VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env: the name of an environment variable is wanted, not the key itself")
        for url in self.urls or ():
            _check_url(url)
        if len(set(self.urls or ())) < len(self.urls or ()):
            raise ValueError("urls: one of them stands there twice")
        _check_arguments(self.args or {})


class Model(Struct, frozen=True, kw_only=True):
    """A model that can be asked for.

    `source` is a folder or a hub name; for a remote engine, what the other server calls the model, at each of `urls`.
    `api_key_env` names the environment variable with the key for them. The fields that begin with `picture_` are the
    model's way with pictures, see `Sizing`. `max_model_len` counts the tokens of a prompt and its answer (None: as the
    engine says), `memory` is what loading it takes. `special_tokens` are spellings that mean more than text to this
    model, `tokenizer` is a folder or a hub name where the source has none of its own, `forms` are those in which its
    template can ask it, the usual one first, `args` the engine's own options, and `price` is what it costs.
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
    picture_rule: Rule | None = None
    picture_size: int = 1024
    picture_filter: Filter = "bicubic"
    picture_tiles: int = 12
    picture_pixels: int | None = None
    max_pictures: int = 1
    max_model_len: int | None = None
    special_tokens: tuple[str, ...] = ()
    tokenizer: str | None = None
    forms: tuple[str, ...] = ()
    args: dict[str, Argument] = msgspec.field(default_factory=dict[str, Argument])
    price: Price = Price()

    @property
    def sizing(self) -> Sizing:
        """Its way with pictures."""
        return Sizing(
            self.picture_rule, self.picture_size, self.picture_filter, self.picture_tiles, self.picture_pixels
        )


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
    if known is not None and configured is not None and "mm-processor-kwargs" in map(_dashed, configured.args or ()):
        # Under options of its own a model may see pictures in another way than the catalogue says.
        known = msgspec.structs.replace(known, picture_rule=None, picture_size=None)
    for entry in (known, configured):
        if entry is not None:
            fields |= {key: value for key, value in msgspec.structs.asdict(entry).items() if value is not None}
    if fields.get("engine") == "remote":
        _leave_to_its_server(fields, configured)
    _check_complete(fields, origin)
    for key in ("source", "tokenizer"):
        if str(fields.get(key)).startswith("~"):
            fields[key] = str(Path(fields[key]).expanduser())
    fields["args"] = {_dashed(key): value for key, value in fields.get("args", {}).items()}
    if "max-model-len" in fields["args"]:  # vLLM's own name for it
        fields["max_model_len"] = fields["args"].pop("max-model-len")
    fields.setdefault("picture_size", PICTURE_SIZE[fields["engine"]])
    fields.setdefault("max_model_len", MAX_MODEL_LEN.get(fields["engine"]))
    return Model(**fields)


def _leave_to_its_server(fields: dict[str, Any], configured: ModelConfig | None) -> None:
    """Takes out what the catalogue says for an engine of ours; the other server knows a bundled model by its name."""
    given = configured or ModelConfig()
    for key in ("tokenizer", "args"):
        if getattr(given, key) is None:
            fields.pop(key, None)
    if given.source is None and Path(fields.get("source", "")).is_absolute():
        del fields["source"]
    fields.setdefault("source", fields["name"])


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
    if remote and fields.get("tokenizer"):
        raise ConfigError(f"{place} is remote and has 'tokenizer'. Set it where that engine is started.")
    if not remote and (odd := [key for key in ("urls", "api_key_env") if fields.get(key)]):
        raise ConfigError(f"{place} has '{odd[0]}', which only a remote engine uses. Add engine = \"remote\".")
    if fields["engine"] == "blip" and (odd := [key for key in ("tokenizer", "forms") if fields.get(key)]):
        raise ConfigError(f"{place} has '{odd[0]}', of which BLIP's engine knows nothing. Remove it.")
    if fields.get("picture_rule") == "multiples" and "picture_pixels" not in fields:
        raise ConfigError(
            f"{place} has picture_rule = \"multiples\" and no 'picture_pixels'. "
            "Add the most pixels that its image processor lets through."
        )
    if remote and fields.get("args"):
        raise ConfigError(f"{place} is remote and has 'args'. Set them where that engine is started.")


def _check_arguments(arguments: Mapping[str, Argument]) -> None:
    for name, value in arguments.items():
        if not ARGUMENT.fullmatch(name):
            raise ValueError(f"args: {name!r} is no option's name; write it without the dashes before it")
        if _dashed(name) in RESERVED_ARGUMENTS:
            raise ValueError(f"args: '{_dashed(name)}' is set by the gateway itself")
        if _dashed(name) == "max-model-len" and (type(value) is not int or value < 1):
            raise ValueError(f"args: '{name}' is a number of tokens, such as 8192, and not {value!r}")


def _check_url(url: str) -> None:
    try:
        parsed = yarl.URL(url)
        (parsed.host or "").encode("idna")
    except ValueError:
        parsed = yarl.URL()
    if parsed.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"urls: {url!r} goes too far; end it before '/chat/completions'")
    odd = parsed.scheme not in ("http", "https") or not parsed.host or parsed.port == 0
    if odd or parsed.user or parsed.query_string or parsed.fragment:
        raise ValueError(f"urls: {url!r} is no address such as 'http://gpu-1:8001/v1'; a key goes into api_key_env")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
