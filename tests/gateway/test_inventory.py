"""What can be served, read off the disk."""

from pathlib import Path

import pytest

from gateway import inventory
from gateway.config import Model


def model(source: str, **args: str) -> Model:
    """A BLIP model from that source."""
    return Model(name="m", engine="blip", source=source, args=dict(args))


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
