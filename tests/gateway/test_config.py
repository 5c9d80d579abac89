"""The configuration: its layers, its faults, its example."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from gateway import config
from gateway.auth import Caller, Key, KeyConfig
from gateway.catalogue import Model
from gateway.config import load
from gateway.inventory import is_folder
from gateway.logs.settings import LogConfig
from gateway.usage.settings import Price, UsageConfig
from gateway.values import Bytes, ConfigError, Money, Seconds, from_text

ROOT = Path(__file__).parents[2]
SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "server": config.ServerConfig,
    "images": config.ImagesConfig,
    "cache": config.CacheConfig,
    "engines": config.EnginesConfig,
    "usage": UsageConfig,
    "log": LogConfig,
}

UNSET = {
    "redis",
    "idle_timeout",
    "proxy",
    "path",
    "currency",
}  # what is off has no value, and stands in the example as a comment


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
    assert (loaded.engines.max_loaded, loaded.engines.idle_timeout) == (1, None)
    assert [model.name for model in loaded.models][:3] == ["demo", "blip-base", "blip-large"]
    assert Path(loaded.models[0].source).is_absolute()


def of_engine(kind: str) -> list[Model]:
    """The models of the catalogue that an engine of that kind serves."""
    return [model for model in load(None, {}, {}).models if model.engine == kind]


def test_every_model_for_vllm_says_what_must_be_known_of_it() -> None:
    """Its licence, what it takes and what it can: nobody should have to load it to learn that."""
    models = of_engine("vllm")

    assert len(models) >= 5
    for model in models:
        assert not is_folder(model.source)
        assert "/" in model.source
        assert model.source in model.aliases
        assert model.licence != "unknown"
        assert model.description.endswith(".")
        assert model.memory is not None
        assert model.memory >= 10**9
        assert model.picture_size is not None
        assert model.max_model_len is not None
        assert model.max_model_len >= 2048
        assert model.max_pictures >= 1
        assert not model.urls


def test_every_model_of_the_catalogue_has_a_licence_and_a_description() -> None:
    """Of whatever kind."""
    for model in load(None, {}, {}).models:
        assert model.licence != "unknown", model.name
        assert model.description.endswith("."), model.name


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


def only(tmp_path: Path, text: str) -> Model:
    """The last model of a configuration."""
    return load(written(tmp_path, text), {}, {}).models[-1]


def test_an_engines_options_may_be_lists_and_tables(tmp_path: Path) -> None:
    """Underscores and dashes mean the same; what they hold stays as it is written."""
    text = """
        [models.mine]
        engine = "vllm"
        source = "org/name"
        args = { enable_sleep_mode = true, allowed-origins = ["a", "b"], mm_processor_kwargs = { max_pixels = 1 } }
    """

    assert only(tmp_path, text).args == {
        "enable-sleep-mode": True,
        "allowed-origins": ["a", "b"],
        "mm-processor-kwargs": {"max_pixels": 1},
    }


def test_the_length_of_a_model_may_be_set_by_either_name(tmp_path: Path) -> None:
    """As ours or as vLLM's own option: the gateway knows it and the engine gets it once."""
    ours = only(tmp_path, '[models.m]\nengine = "vllm"\nsource = "o/n"\nmax_model_len = 4096')
    theirs = only(tmp_path, '[models.m]\nengine = "vllm"\nsource = "o/n"\nargs = { max_model_len = 4096 }')

    assert ours == theirs
    assert (ours.max_model_len, ours.args) == (4096, {})


def test_a_model_elsewhere_needs_its_address_alone(tmp_path: Path) -> None:
    """The other server knows it by our name unless the source says another; the key is named, never written."""
    text = '[models.far]\nengine = "remote"\nurls = ["http://gpu-1:8001/v1", "https://gpu-2/v1"]\napi_key_env = "KEY"'

    model = only(tmp_path, text)

    assert (model.source, model.api_key_env) == ("far", "KEY")
    assert model.urls == ("http://gpu-1:8001/v1", "https://gpu-2/v1")


def test_a_model_keeps_its_tokenizer_and_forms_under_options_of_ones_own(tmp_path: Path) -> None:
    """They are no options of vLLM's: whoever sets those, or another source, need not repeat them."""
    text = '[models.cogvlm-chat]\nsource = "/prepared"\nargs = { max-num-seqs = 4 }\n[models.ours]\n'
    text += 'engine = "vllm"\nsource = "/x"\ntokenizer = "~/words"'
    models = {model.name: model for model in load(written(tmp_path, text), {}, {}).models}

    assert (models["cogvlm-chat"].tokenizer, models["cogvlm-chat"].forms) == ("lmsys/vicuna-7b-v1.5", ("chat", "vqa"))
    assert models["cogvlm-chat"].max_pictures == 1
    assert models["ours"].tokenizer == str(Path("~/words").expanduser())


def test_what_a_model_is_can_be_told(tmp_path: Path) -> None:
    """The memory that it takes, its pictures, and the spellings that mean more than text to it."""
    text = """
        [models.mine]
        engine = "vllm"
        source = "~/weights"
        memory = "12GB"
        max_pictures = 3
        special_tokens = ["<image>", "<|end|>"]
    """

    model = only(tmp_path, text)

    assert (model.memory, model.max_pictures, model.special_tokens) == (12 * 10**9, 3, ("<image>", "<|end|>"))
    assert model.source == str(Path.home() / "weights")


def test_a_model_has_a_price_when_one_is_set(tmp_path: Path) -> None:
    """Of a thousand pictures or tokens, to the last digit as it is written; all else is free."""
    model = only(tmp_path, REMOTE + 'price = { pictures = 1.5, completion_tokens = "0.000125" }')

    assert model.price == Price(pictures=Money(1_500_000), completion_tokens=Money(125))
    assert load(None, {}, {}).models[0].price == Price()


def test_how_many_are_loaded_and_for_how_long_can_be_set(tmp_path: Path) -> None:
    """In the file or in the environment."""
    file = written(tmp_path, '[engines]\nmax_loaded = 2\nidle_timeout = "30m"\npreload = ["demo", "blip"]')

    assert load(file, {}, {}).engines.idle_timeout == 1800.0
    assert load(file, {"ALTGATE_ENGINES__MAX_LOADED": "3"}, {}).engines.max_loaded == 3


@pytest.mark.parametrize("text", ["-1s", "0", "", "1 fortnight", "1e3", "nan", True, None, "10 s s"])
def test_what_is_no_duration_is_told_with_examples(text: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match='"24h"'):
        from_text(Seconds, text)


@pytest.mark.parametrize("text", ["-1", "0B", "1 mib", "1KB1", False, [1]])
def test_what_is_no_size_is_told_with_examples(text: object) -> None:
    """Units are spelled one way."""
    with pytest.raises(ValueError, match='"20MB"'):
        from_text(Bytes, text)


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
        ('[cache]\nredis = "redis://localhost?sll_ca_certs=x"', ["altgate.toml", "redis", "option"]),
        ('[cache]\nredis = "redis+sentinel://one:26379"', ["altgate.toml", "redis", "/service"]),
        ("[server]\nheartbeat = 0", ["altgate.toml", "server.heartbeat", "above zero"]),
        ("[images]\nallowed_ports = [0]", ["altgate.toml", "images.allowed_ports"]),
        ("[images]\nallowed_ports = []", ["altgate.toml", "allowed_ports", "at least one"]),
        ("[images]\nformats = []", ["altgate.toml", "formats", "at least one"]),
        ('[images]\nformats = ["jpeg", "png", "jpeg"]', ["altgate.toml", "formats", "twice"]),
        ('[images]\nmax_decoded = "64MiB"', ["images.max_decoded", "64 MiB", "1339 MiB", "images.max_pixels"]),
        ("[images]\nmax_pixels = 100_000_000", ["images.max_decoded", "100,000,000", "Raise"]),
        ('[models.demo]\nargs = { uds = "/x" }', ["altgate.toml", "models.demo", "'uds'"]),
        ('[models.ours]\nengine = "blip"\nsource = ""', ["altgate.toml", "models.ours", "source"]),
        ('[models."a b"]\nengine = "blip"\nsource = "x"', ["'a b'", "digits"]),
        ("[server", ["altgate.toml", "TOML"]),
        ("[engines]\nmax_loaded = 0", ["altgate.toml", "engines.max_loaded"]),
        ('[engines]\nidle_timeout = "soon"', ["altgate.toml", "engines.idle_timeout", "24h"]),
        ('[engines]\npreload = ["demo", "blip"]', ["engines.preload", "2 models", "engines.max_loaded", "Raise"]),
        ('[models.x]\nengine = "remote"', ["altgate.toml", "models.x", "urls = ["]),
        (
            '[models.x]\nengine = "remote"\nurls = ["gpu-1:8001"]',
            ["altgate.toml", "models.x", "'gpu-1:8001'", "http://"],
        ),
        ('[models.x]\nengine = "remote"\nurls = ["http://me:pw@gpu"]', ["altgate.toml", "models.x", "api_key_env"]),
        ('[models.x]\nengine = "remote"\nurls = ["http://g/v1"]\nargs = { a = 1 }', ["models.x", "'args'", "started"]),
        ('[models.demo]\nurls = ["http://g/v1"]', ["models.demo", "'urls'", 'engine = "remote"']),
        ('[models.demo]\napi_key_env = "KEY"', ["models.demo", "'api_key_env'", 'engine = "remote"']),
        ("[models.demo]\nargs = { served_model_name = 'x' }", ["models.demo", "'served-model-name'", "gateway itself"]),
        ("[models.demo]\nargs = { tokenizer = 'x' }", ["models.demo", "'tokenizer'", "gateway itself"]),
        (
            '[models.x]\nengine = "remote"\nurls = ["http://g/v1"]\ntokenizer = "x"',
            ["models.x", "'tokenizer'", "Set it where"],
        ),
        ("[models.demo]\nprice = 2", ["altgate.toml", "models.demo.price"]),
        ("[models.demo]\nprice = { picture = 2 }", ["altgate.toml", "models.demo.price.picture", "'pictures'"]),
        ("[models.demo]\nprice = { pictures = -2 }", ["altgate.toml", "models.demo.price.pictures", "1.5"]),
        ('[usage]\npath = ""', ["altgate.toml", "usage.path"]),
        ('[usage]\ncurrency = "a b"', ["altgate.toml", "usage.currency"]),
        ("[usage]\ncurency = 'EUR'", ["altgate.toml", "usage.curency", "'currency'"]),
        ('[models.demo]\nmemory = "much"', ["models.demo", "memory", "20MB"]),
        ("[models.demo]\nmax_pictures = 0", ["models.demo", "max_pictures"]),
        ('[models.demo]\nforms = ["vqa"]', ["models.demo", "'forms'", "Remove it"]),
        ('[models.demo]\ntokenizer = "x"', ["models.demo", "'tokenizer'", "Remove it"]),
        ('[models.demo]\nspecial_tokens = ["<"]', ["models.demo", "special_tokens"]),
    ],
)
def test_a_fault_names_file_key_and_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    """What cannot be meant is refused in words that lead to it."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), {}, {})

    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_known_model_can_be_served_elsewhere(tmp_path: Path) -> None:
    """What the catalogue says of its tokenizer is then the other server's affair."""
    text = '[models.cogvlm-chat]\nengine = "remote"\nurls = ["http://g/v1"]'

    (model,) = (each for each in load(written(tmp_path, text), {}, {}).models if each.name == "cogvlm-chat")

    assert (model.engine, model.tokenizer) == ("remote", None)


def test_the_bundled_model_can_be_served_elsewhere(tmp_path: Path) -> None:
    """The other server knows it by its name, not by a folder of this machine, and has been given its own options."""
    text = '[models.demo]\nengine = "remote"\nurls = ["http://blip:8001/v1"]\n[models.gemma-3-4b]\nengine = "remote"\n'
    text += 'urls = ["http://g/v1"]\n'

    models = {model.name: model for model in load(written(tmp_path, text), {}, {}).models}

    assert (models["demo"].source, models["demo"].args) == ("demo", {})
    assert models["demo"].picture_size == 96
    assert models["gemma-3-4b"].source == "google/gemma-3-4b-it"


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

    assert keys == {name: set(kind.__struct_fields__) - UNSET for name, kind in SECTIONS.items()}
    assert all(f"\n# {key} = " in example.read_text() for key in UNSET)
    assert load(example, {}, {}) == load(written(tmp_path, ""), {}, {})


def test_the_examples_key_is_complete_and_can_be_used(tmp_path: Path) -> None:
    """It stands there as a comment, for a key changes everything; without the marks it is a configuration."""
    lines = (ROOT / "altgate.example.toml").read_text().splitlines()
    start = lines.index("# [keys.website]")
    section = "\n".join(line.removeprefix("# ") for line in lines[start : lines.index("", start)])

    assert tomllib.loads(section)["keys"]["website"].keys() == set(KeyConfig.__struct_fields__)
    assert load(written(tmp_path, section), {}, {}).keys[0].caller.team == "web"


DIGEST = f"sha256:{'a1' * 32}"
ONE_KEY = f'[keys.ci]\ndigest = "{DIGEST}"\n'


def test_a_key_is_everything_to_all_models_unless_it_says_otherwise(tmp_path: Path) -> None:
    """Its team is its name; models may be named by their aliases."""
    limits = 'team = "web"\nmodels = ["demo", "blip"]\nrequests_per_minute = 60\nconcurrent = 2\nadmin = true'
    plain = load(written(tmp_path, ONE_KEY), {}, {}).keys
    limited = load(written(tmp_path, ONE_KEY + limits), {}, {}).keys

    assert plain == (Key(bytes.fromhex("a1" * 32), Caller(key_id="ci", team="ci")),)
    assert limited[0].caller == Caller(
        key_id="ci",
        team="web",
        admin=True,
        models=frozenset(["demo", "blip-base"]),
        requests_per_minute=60,
        concurrent=2,
    )


def test_keys_may_come_from_the_environment(tmp_path: Path) -> None:
    """Whole, or one setting of a key in the file; the variable with a client's own key is no setting."""
    file = written(tmp_path, ONE_KEY)
    environ = {
        "ALTGATE_KEYS__CI__REQUESTS_PER_MINUTE": "5",
        "ALTGATE_KEYS__OTHER__DIGEST": f"sha256:{'b2' * 32}",
        "ALTGATE_KEYS__OTHER__MODELS": '["demo"]',
        "ALTGATE_KEY": "ag-something",
    }

    ci, other = (key.caller for key in load(file, environ, {}).keys)

    assert (ci.key_id, ci.requests_per_minute, ci.models) == ("ci", 5, None)
    assert (other.key_id, other.models) == ("other", frozenset(["demo"]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[keys.ci]", ["'keys.ci'", "no digest", "altgate keys new ci"]),
        ('[keys.ci]\ndigest = "ag-secret"', ["altgate.toml", "keys.ci", "sha256:", "altgate keys new"]),
        ('[keys.ci]\ndigest = "sha256:abc"', ["keys.ci", "64 hex digits"]),
        (ONE_KEY + 'teem = "x"', ["altgate.toml", "keys.ci.teem", "'team'"]),
        (ONE_KEY + 'team = "a:b"', ["keys.ci", "team", "letters"]),
        (ONE_KEY + 'models = ["dmeo"]', ["keys.ci.models", "'dmeo'", "'demo'"]),
        (ONE_KEY + "requests_per_minute = 0", ["keys.ci", "requests_per_minute"]),
        (ONE_KEY + "concurrent = 1.5", ["keys.ci", "concurrent"]),
        (ONE_KEY.replace("ci", '"a b"'), ["'a b'", "Letters"]),
        (ONE_KEY + ONE_KEY.replace("ci", "other"), ["keys.ci", "keys.other", "one key"]),
        ('[server]\nhost = "0.0.0.0"', ["altgate keys new", "[keys.NAME]", "digest = "]),
    ],
)
def test_a_fault_with_keys_names_the_key_and_the_remedy(tmp_path: Path, text: str, words: list[str]) -> None:
    """What stands in a digest's place may be a key, so it is never repeated."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), {}, {})

    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "ag-secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.internal"])
def test_with_a_key_one_may_listen_beyond_loopback(tmp_path: Path, host: str) -> None:
    """The addresses and names of others' networks."""
    assert load(written(tmp_path, f'[server]\nhost = "{host}"\n' + ONE_KEY), {}, {}).server.host == host


def test_every_setting_of_the_example_is_explained() -> None:
    """Each key has a comment on its line or above it."""
    lines = (ROOT / "altgate.example.toml").read_text().splitlines()
    settings = [at for at, line in enumerate(lines) if " = " in line and not line.startswith("#")]

    assert all("#" in lines[at] or lines[at - 1].startswith("#") for at in settings)


REMOTE = '[models.x]\nengine = "remote"\nurls = ["http://gpu-1:8001/v1"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (REMOTE + 'api_key_env = "sk-secret-0123"', "not the key itself"),
        (REMOTE.replace("/v1", "/v1/chat/completions"), "goes too far"),
        (REMOTE.replace('"]', '", "http://gpu-1:8001/v1"]'), "stands there twice"),
        (REMOTE.replace("8001", "0"), "is no address"),
        (REMOTE.replace("gpu-1", "a..b"), "is no address"),
        ('[models.demo]\nargs = { "--threads" = 1 }', "without the dashes"),
        ("[models.gemma-3-4b]\nargs = { max-model-len = '8k' }", "a number of tokens"),
        ("[models.gemma-3-4b]\nargs = { max_model_len = 0 }", "a number of tokens"),
        ("[models.gemma-3-4b]\nargs = { max-model-len = true }", "a number of tokens"),
    ],
)
def test_slips_with_engines_are_told_before_anything_starts(tmp_path: Path, text: str, words: str) -> None:
    """What would fail late, or pass unnoticed; and a key that stands where a name should is not repeated."""
    with pytest.raises(ConfigError, match=words) as caught:
        load(written(tmp_path, text), {}, {})

    assert "sk-secret" not in str(caught.value)


def test_engines_elsewhere_need_no_place(tmp_path: Path) -> None:
    """They may be preloaded, which is to say probed, beside the one model that is loaded here."""
    preload = '[engines]\npreload = ["demo", "x", "y"]\n' + REMOTE + 'aliases = ["y"]'

    assert load(written(tmp_path, preload), {}, {}).engines.preload == ("demo", "x", "y")


def test_a_model_under_two_names_takes_one_place(tmp_path: Path) -> None:
    """An alias is no second model."""
    preload = '[engines]\npreload = ["blip", "blip-base"]'

    assert load(written(tmp_path, preload), {}, {}).engines.max_loaded == 1


def test_a_context_that_nobody_sets_is_left_to_the_engine(tmp_path: Path) -> None:
    """Only BLIP's is known; a made-up number would cut off what a model can do."""
    settings = REMOTE + '[models.ours]\nengine = "vllm"\nsource = "/m"\n[models.old]\nengine = "blip"\nsource = "/m"'
    lengths = {model.name: model.max_model_len for model in load(written(tmp_path, settings), {}, {}).models}

    assert (lengths["x"], lengths["ours"], lengths["old"]) == (None, None, 512)


def test_every_model_of_the_catalogue_says_what_it_makes_of_pictures() -> None:
    """So that pictures are brought to just that."""
    for model in load(None, {}, {}).models:
        assert model.sizing.rule in {"square", "tiles", "multiples"}, model.name
        assert model.sizing.side == model.picture_size


def test_under_options_of_its_own_a_model_may_see_otherwise(tmp_path: Path) -> None:
    """Then the catalogue's word on pictures does not count any more; what the same file says does."""
    options = '[models."gemma-3-4b"]\nargs = { mm_processor_kwargs = { do_pan_and_scan = true } }\n'
    unknown, told = (
        next(model.sizing for model in load(written(tmp_path, text), {}, {}).models if model.name == "gemma-3-4b")
        for text in (options, options + 'picture_rule = "square"\npicture_size = 448')
    )

    assert (unknown.rule, unknown.side) == (None, 1024)
    assert (told.rule, told.side) == ("square", 448)


def test_multiples_need_their_most_pixels(tmp_path: Path) -> None:
    """Without it nobody could say what such a model makes of a large picture."""
    rule = REMOTE + 'picture_rule = "multiples"\npicture_size = 28\n'

    with pytest.raises(ConfigError, match="Add the most pixels"):
        load(written(tmp_path, rule), {}, {})
    sizing = load(written(tmp_path, rule + "picture_pixels = 1003520"), {}, {}).models[-1].sizing
    assert (sizing.rule, sizing.side, sizing.pixels) == ("multiples", 28, 1003520)
