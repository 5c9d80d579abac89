"""The configuration: its layers, its faults, its example."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from gateway import config
from gateway.config import Bytes, ConfigError, Seconds, load

ROOT = Path(__file__).parents[2]
SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "server": config.ServerConfig,
    "images": config.ImagesConfig,
    "cache": config.CacheConfig,
    "engines": config.EnginesConfig,
}


def written(folder: Path, text: str) -> Path:
    """A configuration file with that text."""
    file = folder / "altgate.toml"
    file.write_text(text)
    return file


def test_nothing_configured_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, an environment or flags there are defaults: the demo model, loopback, a cache in memory."""
    monkeypatch.chdir(tmp_path)

    loaded = load(None, {}, {})

    assert loaded.server.host == "127.0.0.1"
    assert loaded.cache.redis is None
    assert loaded.engines.preload == ("demo",)
    assert [model.name for model in loaded.models] == ["demo", "blip-base", "blip-large"]
    assert Path(loaded.models[0].source).is_absolute()


def test_flags_beat_the_environment_beats_the_file(tmp_path: Path) -> None:
    """The nearer to the user, the stronger."""
    file = written(tmp_path, '[server]\nport = 1\nheartbeat = "1s"\nmax_requests = 7')
    environ = {"ALTGATE_SERVER__PORT": "2", "ALTGATE_SERVER__HEARTBEAT": "2s", "HOME": "/"}

    loaded = load(file, environ, {"server": {"port": 3}})

    assert (loaded.server.port, loaded.server.heartbeat, loaded.server.max_requests) == (3, 2.0, 7)


def test_altgate_toml_of_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the default name needs no flag."""
    written(tmp_path, "[server]\nport = 4321")
    monkeypatch.chdir(tmp_path)

    assert load(None, {}, {}).server.port == 4321


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ('"250ms"', 0.25), ('"10s"', 10), ('"5m"', 300), ('"24h"', 86400), ("7", 7)]
)
def test_durations_have_units(tmp_path: Path, text: str, value: float) -> None:
    """Seconds without a unit, or with one."""
    assert load(written(tmp_path, f"[cache]\nttl = {text}"), {}, {}).cache.ttl == Seconds(value)


@pytest.mark.parametrize(
    ("text", "value"), [("512", 512), ('"64KiB"', 65536), ('"20MB"', 20_000_000), ('"1 GiB"', 2**30)]
)
def test_sizes_have_units(tmp_path: Path, text: str, value: int) -> None:
    """Bytes without a unit, or with one."""
    assert load(written(tmp_path, f"[cache]\nmax_bytes = {text}"), {}, {}).cache.max_bytes == Bytes(value)


def test_a_model_of_the_catalogue_is_overridden_field_by_field(tmp_path: Path) -> None:
    """What is not given stays as the catalogue has it."""
    file = written(tmp_path, '[models.blip-base]\naliases = ["gpt-4o-mini"]\nargs = { dtype = "float32" }')

    model = next(model for model in load(file, {}, {}).models if model.name == "blip-base")

    assert model.aliases == ("gpt-4o-mini",)
    assert model.source == "Salesforce/blip-image-captioning-base"
    assert model.args == {"dtype": "float32"}


def test_a_model_of_ones_own_is_added(tmp_path: Path) -> None:
    """Anything the engine can load can be given a name."""
    file = written(tmp_path, '[models."our-blip"]\nengine = "blip"\nsource = "/models/ours"')

    assert load(file, {}, {}).models[-1].name == "our-blip"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1", ["altgate.toml", "server.prot", "'port'"]),
        ("[sever]\nport = 1", ["altgate.toml", "'sever'", "'server'"]),
        ('[server]\nport = "many"', ["altgate.toml", "server.port", "int"]),
        ("[server]\nport = 70000", ["altgate.toml", "server.port", "65535"]),
        ('[cache]\nttl = "soon"', ["altgate.toml", "cache.ttl", "24h"]),
        ("[cache]\nmax_bytes = true", ["altgate.toml", "cache.max_bytes", "20MB"]),
        ('[models.x]\nengine = "blip"', ["altgate.toml", "models.x", "source"]),
        ('[models.x]\nengine = "blop"\nsource = "y"', ["altgate.toml", "models.x.engine", "blop"]),
        ('[models."a.b"]\nsauce = "y"', ["altgate.toml", "models.a.b.sauce", "'source'"]),
        ('[models.x]\nengine = "blip"\nsource = "y"\naliases = ["demo"]', ["'demo'", "twice"]),
        ('[engines]\npreload = ["dmeo"]', ["engines.preload", "'dmeo'", "'demo'"]),
        ('[images]\nallowed_networks = ["10.0.0.1/8"]', ["altgate.toml", "allowed_networks", "10.0.0.0/8"]),
        ('[server]\nhost = "0.0.0.0"', ["server.host", "0.0.0.0", "127.0.0.1"]),
        ('[server]\nhost = "example.org"', ["server.host"]),
        ('[cache]\nredis = "localhost:6379"', ["altgate.toml", "redis", "redis://localhost:6379/0"]),
        ("[server]\nheartbeat = 0", ["altgate.toml", "server.heartbeat", "above zero"]),
        ("[images]\nallowed_ports = [0]", ["altgate.toml", "images.allowed_ports"]),
        ('[models.demo]\nargs = { uds = "/x" }', ["altgate.toml", "models.demo", "'uds'"]),
        ('[models.ours]\nengine = "blip"\nsource = ""', ["altgate.toml", "models.ours", "source"]),
        ('[models."a b"]\nengine = "blip"\nsource = "x"', ["'a b'", "digits"]),
        ("[server", ["altgate.toml", "TOML"]),
    ],
)
def test_a_fault_names_file_key_and_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    """What cannot be meant is refused in words that lead to it."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), {}, {})

    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    """A file that was named must exist."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml.*--config"):
        load(tmp_path / "nowhere.toml", {}, {})


@pytest.mark.parametrize(
    "environ",
    [
        {"ALTGATE_MODELS__DEMO__SOURCE": "/x"},
        {"ALTGATE_PORT": "1"},
        {"ALTGATE_SERVER__PROT": "1"},
        {"ALTGATE_SERVER__PORT": "x"},
    ],
)
def test_faults_in_the_environment_are_told_as_such(tmp_path: Path, environ: dict[str, str]) -> None:
    """A typing slip in a variable's name never passes silently."""
    with pytest.raises(ConfigError, match="environment"):
        load(written(tmp_path, ""), environ, {})


def test_the_example_holds_every_setting_with_its_default(tmp_path: Path) -> None:
    """altgate.example.toml is complete and true: every key, with the value that holds without it."""
    example = ROOT / "altgate.example.toml"
    keys = {name: set(section) for name, section in tomllib.loads(example.read_text()).items()}

    assert keys == {name: set(kind.__struct_fields__) - {"redis"} for name, kind in SECTIONS.items()}
    assert '# redis = "redis://localhost:6379/0"' in example.read_text()
    assert load(example, {}, {}) == load(written(tmp_path, ""), {}, {})


def test_every_setting_of_the_example_is_explained() -> None:
    """Each key has a comment on its line or above it."""
    lines = (ROOT / "altgate.example.toml").read_text().splitlines()
    settings = [at for at, line in enumerate(lines) if " = " in line and not line.startswith("#")]

    assert all("#" in lines[at] or lines[at - 1].startswith("#") for at in settings)
