"""docker-compose.yml against the Compose schema, and each service against the real commands and configuration."""

import importlib
import subprocess
import sys
from ipaddress import ip_address
from typing import Any

import pytest

from engines import serve, weights
from engines.blip.__main__ import parse as parse_blip
from engines.vllm.__main__ import parse as parse_vllm
from engines.vllm.command import DRAIN_SECONDS
from gateway import config
from gateway.catalogue import Model
from gateway.child import STOP_PATIENCE
from gateway.traces import opening
from gateway.values import ConfigError
from tests.containers.deployment import COMPOSE, ROOT, compose, instructions, line, option, services, stages

TEMPLATE = ROOT / "containers/altgate.toml"
CODE = "/opt/altgate/code"  # where images have it
BY_DEFAULT = {"gateway", "redis", "blip"}
ENGINES = {"blip", "blip-base", "gemma", "internvl", "cogvlm"}
ON_VLLM = {"gemma", "internvl", "cogvlm"}


def remote() -> dict[str, Model]:
    """The models that the template serves elsewhere, by the service at their only address."""
    models = [model for model in config.read(TEMPLATE, {}, {}).models if model.engine == "remote"]
    return {model.urls[0].removeprefix("http://").partition(":")[0]: model for model in models}


def seconds(text: str) -> int:
    """A duration as compose writes it."""
    return int(text.removesuffix("s"))


def test_it_is_a_compose_file() -> None:
    """By the schema of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_starts_by_default_and_what_on_request() -> None:
    """Gateway, Redis and BLIP without a word; what wants a GPU or a download only when it is named."""
    profiles = {name: service.get("profiles") for name, service in services().items()}

    assert {name for name, profile in profiles.items() if profile is None} == BY_DEFAULT
    assert {name for name, profile in profiles.items() if profile == ["gpu"]} == ON_VLLM
    assert profiles["blip-base"] == ["blip"]
    assert profiles["weights"] == ["weights"]


@pytest.mark.parametrize("name", [*services()])
def test_every_service_is_locked_up(name: str) -> None:
    """A user without rights, nothing to write to but what is named, no capability, a bound on processes and logs."""
    service = services()[name]

    assert service["read_only"] is True
    assert int(service["user"].partition(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["init"] is True
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all("size=" in place for place in service["tmpfs"])
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "env_file"}
    assert name in ON_VLLM or service["mem_limit"]


def test_our_images_run_as_the_user_that_the_compose_file_names() -> None:
    """So that whoever runs an image without compose is as safe, and volumes belong to the same user."""
    for service in services().values():
        if "build" in service:
            assert stages()[service["build"]["target"]].user == service["user"] == "10001:10001"


def test_only_the_gateway_and_downloads_have_a_way_out() -> None:
    """Every other service is on internal networks alone, and shares one with the gateway."""
    networks = compose()["networks"]
    inside = {name for name, settings in networks.items() if settings.get("internal")}
    used = {name: set(service["networks"]) for name, service in services().items()}

    assert {name for name, on in used.items() if on - inside} == {"gateway", "weights"}
    assert all(on & used["gateway"] for name, on in used.items() if name != "weights")
    assert used["redis"].isdisjoint(used["blip"])
    assert all("weights" not in service.get("depends_on", {}) for service in services().values())


def test_one_port_is_published_and_on_loopback() -> None:
    """The gateway's, which listens inside on all addresses, and hence wants a key."""
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    ((host, outside, inside),) = (port.split(":") for port in published["gateway"])
    gateway = stages()["gateway"]

    assert [*published] == ["gateway"]
    assert ip_address(host).is_loopback
    assert inside == gateway.port == str(config.ServerConfig().port) == gateway.health[-1] == outside
    assert gateway.environ["ALTGATE_SERVER__HOST"] == "0.0.0.0"
    with pytest.raises(ConfigError, match="no key is configured"):
        config.load(TEMPLATE, {"ALTGATE_SERVER__HOST": "0.0.0.0"}, {})


def test_the_gateway_is_told_where_traces_go() -> None:
    """The variables are passed on as the shell or .env has them, and not there at all where they are not set."""
    passed = {name for name, value in services()["gateway"]["environment"].items() if value is None}

    assert {*opening.WHERE, "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_SERVICE_NAME"} <= passed
    assert all(name.startswith("OTEL_") for name in passed)


def test_the_gateway_finds_its_configuration_where_it_is_mounted() -> None:
    """As a folder, since an editor that replaces a file would leave the old one mounted; and read-only."""
    (mount,) = services()["gateway"]["volumes"]

    assert mount == f"./config:{stages()['gateway'].folder}:ro"
    assert str(config.DEFAULT_FILE) == "altgate.toml"


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_the_gateway_knows_each_engine_by_its_name_place_and_model(name: str) -> None:
    """The address in the template is the service's, the name that is asked for is the one it answers to."""
    model, service, words = remote()[name], services()[name], line(services()[name])
    stage = stages()[service["build"]["target"]]

    assert model.urls == (f"http://{name}:{option(words, 'port')}/v1",)
    assert option(words, "port") == stage.port == stage.health[-1]
    assert option(words, "host") == "0.0.0.0"
    assert model.source == option(words, "model")
    assert "engines" in service["networks"]


def test_the_template_serves_what_the_compose_file_has() -> None:
    """No engine without a model, no model without an engine; the first is there by default."""
    assert remote().keys() == ENGINES
    assert config.read(TEMPLATE, {}, {}).engines.preload == (remote()["blip"].name,)


@pytest.mark.parametrize("name", ["blip", "blip-base"])
def test_blips_command_line_is_one(name: str) -> None:
    """The engine's own parser takes it; the bundled model's options are the catalogue's."""
    options = parse_blip(line(services()[name])[4:])
    known = {model.name: model for model in config.read(None, {}, {}).models}

    assert line(services()[name])[:4] == ["python", "-P", "-m", "engines.blip"]
    if name == "blip":
        assert (options.dtype, options.threads) == (known["demo"].args["dtype"], known["demo"].args["threads"])
        assert options.source == f"{CODE}/engines/demo/checkpoint"
        assert ("COPY", f"--from=code /code {CODE}") in instructions()
    else:
        assert options.source == known["blip-base"].source


@pytest.mark.parametrize("name", sorted(ON_VLLM))
def test_vllms_command_lines_are_those_of_the_catalogue(name: str) -> None:
    """The launcher's parser takes all of it; bounds and sources are the ones that the gateway keeps to."""
    words = line(services()[name])
    options, left = parse_vllm(words[4:])
    model = remote()[name]
    known = {each.name: each for each in config.read(None, {}, {}).models}[model.name]

    assert words[:4] == ["python3", "-P", "-m", "engines.vllm"]
    assert left == []
    assert (options.source, options.tokenizer) == (known.source, known.tokenizer)
    assert (options.max_model_len, options.max_pictures) == (model.max_model_len, model.max_pictures)
    assert options.max_pixels == config.ImagesConfig().max_pixels
    (device,) = services()[name]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"], len(device["device_ids"])) == ("nvidia", ["gpu"], 1)


def test_each_gpu_has_one_model() -> None:
    """vLLM takes nearly all of one's memory; a variable moves a model to another."""

    def devices(read: dict[str, Any]) -> list[str]:
        found = (read["services"][name]["deploy"]["resources"]["reservations"]["devices"] for name in sorted(ON_VLLM))
        return [device["device_ids"][0] for (device,) in found]

    assert sorted(devices(compose())) == ["0", "1", "2"]
    assert devices(compose({"GEMMA_GPU": "7"}))[1] == "7"


def test_weights_come_by_a_service_of_their_own() -> None:
    """It alone writes to their volume and has the hub's token; engines read there, and look nowhere else."""
    service = services()["weights"]

    assert service["entrypoint"] == ["python", "-P", "-m", weights.__name__]
    assert service["command"] == ["blip-base"]
    assert service["volumes"] == ["weights:/weights"]
    assert "HF_HUB_OFFLINE" not in service["environment"]
    assert service["environment"]["HF_TOKEN_PATH"] == f"/run/secrets/{service['secrets'][0]}"
    for name in ENGINES:
        assert "weights:/weights:ro" in services()[name]["volumes"]
        assert services()[name]["environment"]["HF_HUB_OFFLINE"] == "1"
        assert "secrets" not in services()[name]
        assert stages()[services()[name]["build"]["target"]].environ["HF_HOME"] == "/weights"


def test_whoever_is_waited_for_can_say_that_he_is_well() -> None:
    """Each image has a health check with the program that is in it; the order is that of dependence."""
    for name in ("gateway", "blip", "vllm"):
        health = stages()[name].health
        assert health[:3] == [stages()[name].entrypoint[0] if name != "gateway" else "python", "-P", "-m"]
        assert importlib.util.find_spec(health[3]) is not None
    waited = services()["gateway"]["depends_on"]
    assert waited == {name: {"condition": "service_healthy"} for name in ("redis", "blip")}
    assert "healthcheck" in services()["redis"]
    assert services()["weights"]["healthcheck"] == {"disable": True}


def test_who_is_told_to_end_is_given_the_time_that_he_takes() -> None:
    """Longer than each drains."""
    grace = {name: seconds(service["stop_grace_period"]) for name, service in services().items() if name in ENGINES}

    assert seconds(services()["gateway"]["stop_grace_period"]) > config.ServerConfig().shutdown_timeout
    assert grace["blip"] > serve.DRAIN_SECONDS
    assert grace["gemma"] >= max(DRAIN_SECONDS, STOP_PATIENCE)


def test_what_is_secret_stands_in_files_that_git_and_builds_never_see() -> None:
    """No value of a secret in the compose file; who needs which is named."""
    read = compose()
    users = {name: set(service.get("secrets", ())) for name, service in services().items()}

    assert {name: used for name, used in users.items() if used} == {
        "gateway": {"redis_url"},
        "redis": {"redis.conf"},
        "weights": {"hf_token"},
    }
    assert all(secret["file"].startswith("./secrets/") for secret in read["secrets"].values())
    assert read["secrets"].keys() == set().union(*users.values())
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/secrets/", "/config/", "/.env"} <= set(ignored)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_every_volume_is_declared_and_used() -> None:
    """And what is written to has a place that belongs to the user who writes."""
    mounted = {place.partition(":")[0] for service in services().values() for place in service.get("volumes", ())}

    assert mounted - {"./config"} == compose()["volumes"].keys()
