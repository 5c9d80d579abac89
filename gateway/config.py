"""Altgate's configuration: frozen Structs, one per part, with their defaults.

`load` reads, in rising order of precedence, the defaults below, one TOML file, environment variables
(see `gateway.environment`) and flags. A fault names where it stands, the key and the remedy.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from gateway import environment, routing
from gateway.auth import Key, KeyConfig, keys
from gateway.catalogue import MODEL_NAME, Model, ModelConfig, models
from gateway.images.handover import Handover
from gateway.images.plan import Resize, most_decoded
from gateway.images.policy import host_rule
from gateway.images.sniff import Format
from gateway.images.url import UrlError
from gateway.logs.settings import LogConfig
from gateway.redis import address
from gateway.usage.settings import Price, UsageConfig
from gateway.values import Bytes, ConfigError, Seconds, from_text

DEFAULT_FILE = Path("altgate.toml")

_PROXY = re.compile(r"http://([^\s/?#@]+@)?([^\s/?#@:\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})/?")
_MOST_PORT = 65535


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The front door. `max_bytes_in_flight` bounds the bodies of all requests under way together.

    With several `workers`, processes that answer requests, what is bounded is divided among them or shared.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    max_body: Bytes = Bytes(70 * 2**20)
    max_connections: Annotated[int, Meta(ge=1)] = 8192
    max_requests: Annotated[int, Meta(ge=1)] = 512
    max_bytes_in_flight: Bytes = Bytes(512 * 2**20)
    heartbeat: Seconds = Seconds(10)
    body_timeout: Seconds = Seconds(60)
    keep_alive: Seconds = Seconds(125)
    shutdown_timeout: Seconds = Seconds(30)
    metrics: Literal["admin", "open"] = "admin"


class ImagesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a picture may be and where it may be fetched from.

    `min_rate` is in bytes a second. `allowed_networks` opens private ranges, in CIDR. Hosts are named one by one or, as
    ".example.com", with all below; no `allowed_hosts` at all means every host. With a `proxy` nothing else is dialled.
    """

    max_bytes: Bytes = Bytes(20 * 2**20)
    max_pixels: Annotated[int, Meta(ge=1)] = 50_000_000
    max_decoded: Bytes = Bytes(1536 * 2**20)
    decode_timeout: Seconds = Seconds(2)
    formats: tuple[Format, ...] = ("jpeg", "png", "webp", "gif", "avif")
    handover: Handover = "decoded"
    resize: Resize = "fast"
    fetch_timeout: Seconds = Seconds(8)
    connect_timeout: Seconds = Seconds(2)
    min_rate: Bytes = Bytes(16_000)
    allowed_ports: tuple[Annotated[int, Meta(ge=1, le=65535)], ...] = (80, 443)
    allowed_networks: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    denied_hosts: tuple[str, ...] = ()
    proxy: str | None = None

    def __post_init__(self) -> None:
        for key in ("formats", "allowed_ports"):
            listed = getattr(self, key)
            if not listed or len(set(listed)) < len(listed):
                raise ValueError(f"{key}: at least one is wanted, and none twice")
        for network in self.allowed_networks:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(f"allowed_networks: {network!r} is no network such as '10.0.0.0/8'") from None
        for key in ("allowed_hosts", "denied_hosts"):
            for host in getattr(self, key):
                try:
                    host_rule(host)
                except UrlError as fault:
                    raise ValueError(f"{key}: {host!r} {fault}; wanted: 'img.example.com' or '.example.com'") from None
        if self.proxy is not None and not _is_proxy(self.proxy):
            raise ValueError("proxy: a URL is wanted, such as 'http://proxy.example.com:3128'")


def _is_proxy(text: str) -> bool:
    found = _PROXY.fullmatch(text)
    return found is not None and 0 < int(found["port"]) <= _MOST_PORT


class CacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where answers are kept: in memory, up to `max_bytes`, and behind it in Redis when its URL is given. Requests that
    were answered from there lately take at most a quarter as much beside it.

    Every team has its own answers, unless they are shared.
    """

    redis: str | None = None
    ttl: Seconds = Seconds(24 * 3600)
    max_bytes: Bytes = Bytes(64 * 2**20)
    share_across_teams: bool = False

    def __post_init__(self) -> None:
        if self.redis is not None:
            try:
                address.check(self.redis)
            except ValueError as error:
                raise ValueError(f"redis: {error}") from None


class EnginesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How engines are started, how many may be loaded at once and how long one waits for them.

    `idle_timeout` unloads an engine that has had nothing to do for so long, and ends one that has slept for so long;
    None keeps both.
    """

    preload: tuple[str, ...] = ("demo",)
    max_loaded: Annotated[int, Meta(ge=1)] = 1
    idle_timeout: Seconds | None = None
    cold_start_wait: Seconds = Seconds(120)
    start_timeout: Seconds = Seconds(1800)
    request_timeout: Seconds = Seconds(300)


class Config(Struct, frozen=True, kw_only=True):
    """Everything that can be set, each part with its own section, and the models by name.

    `wanted` names the models that somebody has asked for: configured or preloaded, and not just known.
    """

    server: ServerConfig
    images: ImagesConfig
    cache: CacheConfig
    engines: EnginesConfig
    usage: UsageConfig
    log: LogConfig
    models: tuple[Model, ...]
    keys: tuple[Key, ...]
    wanted: frozenset[str]


class _Sections(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer as it is written: a file, the environment or the flags."""

    server: ServerConfig = ServerConfig()
    images: ImagesConfig = ImagesConfig()
    cache: CacheConfig = CacheConfig()
    engines: EnginesConfig = EnginesConfig()
    usage: UsageConfig = UsageConfig()
    log: LogConfig = LogConfig()
    models: dict[str, ModelConfig] = {}
    keys: dict[str, KeyConfig] = {}


Table = dict[str, Any]
T = TypeVar("T")


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Mapping[str, object]]) -> Config:
    """The configuration that holds, for a gateway that starts.

    Raises:
        ConfigError: as `read`; or others could reach the gateway, and nobody would need a key.
    """
    config = read(file, environ, flags)
    _check_host(config)
    return config


def read(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Mapping[str, object]]) -> Config:
    """The configuration as it is written.

    Args:
        file: the TOML file; None reads `altgate.toml` of the working directory where there is one.
        environ: the process's environment.
        flags: sections of keys given on the command line.

    Raises:
        ConfigError: a layer cannot be read, or names what does not exist.
    """
    layers = [
        _file_layer(file),
        ("the environment", environment.settings(environ)),
        ("the command line", {key: dict(flags[key]) for key in flags}),
    ]
    merged: Table = {}
    for origin, table in layers:
        _read(table, origin)
        merged = _merge(merged, table)
    sections = _read(merged, "the configuration")
    known = models(sections.models, layers[0][0])
    config = Config(
        server=sections.server,
        images=sections.images,
        cache=sections.cache,
        engines=sections.engines,
        usage=sections.usage,
        log=sections.log,
        models=known,
        keys=keys(sections.keys, routing.table(known)),
        wanted=frozenset([*sections.models, *sections.engines.preload]),
    )
    _check_names(config)
    _check_places(config)
    _check_memory(config.images)
    return config


def _file_layer(file: Path | None) -> tuple[str, Table]:
    path = file or DEFAULT_FILE
    if file is None and not path.exists():
        return (str(path), {})
    try:
        return (str(path), tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Name another file with --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this is not TOML: {error}.") from None


def _merge(low: Table, high: Table) -> Table:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>[^`]+)`")


def _read(table: Table, origin: str) -> _Sections:
    named: tuple[tuple[str, type[Struct]], ...] = (("models", ModelConfig), ("keys", KeyConfig))
    for section, kind in named:
        entries = table.get(section, {})
        if isinstance(entries, dict):
            for name, entry in entries.items():
                _convert(entry, kind, origin, f"{section}.{name}")
    return _convert(table, _Sections, origin, "")


def _convert(table: object, kind: type[T], origin: str, place: str) -> T:
    try:
        return msgspec.convert(table, kind, dec_hook=from_text)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(_explain(str(error), origin, place)) from None


def _explain(text: str, origin: str, place: str) -> str:
    found = _AT.search(text)
    path = ".".join(filter(None, (place, found["path"] if found else "")))
    cause = text[: found.start()] if found else text
    if unknown := _UNKNOWN.match(cause):
        key = unknown["key"]
        near = difflib.get_close_matches(key, _known_keys(path), n=1, cutoff=0.5)
        remedy = f"Did you mean '{near[0]}'?" if near else f"Known here: {', '.join(sorted(_known_keys(path)))}."
        return f"{origin}: unknown key '{'.'.join(filter(None, (path, key)))}'. {remedy}"
    return f"{origin}: '{path}': {cause[:1].lower()}{cause[1:]}. Correct the value, or remove the key for its default."


def _known_keys(path: str) -> tuple[str, ...]:
    parts: dict[str, tuple[str, ...]] = {
        "": _Sections.__struct_fields__,
        "server": ServerConfig.__struct_fields__,
        "images": ImagesConfig.__struct_fields__,
        "cache": CacheConfig.__struct_fields__,
        "engines": EnginesConfig.__struct_fields__,
        "usage": UsageConfig.__struct_fields__,
        "log": LogConfig.__struct_fields__,
    }
    if path.startswith("models.") and path.endswith(".price"):
        return Price.__struct_fields__
    named = KeyConfig if path.startswith("keys.") else ModelConfig
    return parts.get(path, named.__struct_fields__)


def _check_names(config: Config) -> None:
    names = {name for model in config.models for name in (model.name, *model.aliases)}
    if len(names) != sum(1 + len(model.aliases) for model in config.models):
        taken = [name for model in config.models for name in (model.name, *model.aliases)]
        twice = sorted({name for name in taken if taken.count(name) > 1})
        raise ConfigError(f"models: the name '{twice[0]}' is used twice. Rename the model or drop the alias.")
    if odd := next((name for name in names if not MODEL_NAME.fullmatch(name)), None):
        raise ConfigError(
            f"models: the name {odd!r} cannot be used. Letters, digits and any of . _ : / @ + - are well."
        )
    for name in config.engines.preload:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"'engines.preload' names an unknown model '{name}'.{hint}")


def _check_places(config: Config) -> None:
    local = {
        model.name
        for model in config.models
        if model.engine != "remote" and {model.name, *model.aliases} & set(config.engines.preload)
    }
    if len(local) > config.engines.max_loaded:
        raise ConfigError(
            f"'engines.preload' names {len(local)} models of this machine, but 'engines.max_loaded' lets "
            f"{config.engines.max_loaded} be loaded at once. Raise max_loaded, or preload fewer."
        )


def _check_memory(images: ImagesConfig) -> None:
    wanted = most_decoded(images.formats, images.max_pixels)
    if images.max_decoded < wanted:
        raise ConfigError(
            f"'images.max_decoded' is {images.max_decoded / 2**20:.0f} MiB, but decoding a picture of "
            f"{images.max_pixels:,} pixels ('images.max_pixels') may take {wanted / 2**20:.0f} MiB. Raise max_decoded, "
            "or lower max_pixels."
        )


def _check_host(config: Config) -> None:
    host = config.server.host
    try:
        loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not config.keys:
        raise ConfigError(
            f"'server.host' is {host!r}, where others can reach it, but no key is configured. `altgate keys new NAME` "
            "makes a key and prints the lines to add to altgate.toml:\n\n"
            '  [keys.NAME]\n  digest = "sha256:..."\n\n'
            'Or set host = "127.0.0.1": on loopback nobody needs a key.'
        )
