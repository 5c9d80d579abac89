"""What whoever runs the gateway is told of its parts."""

import logging
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import app, doctor
from gateway.config import Config, load
from gateway.images import installed, refusal
from gateway.images.download import UnreachableError
from gateway.parts import Parts
from gateway.record import Record


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """HEIC is enabled, and its decoder is not installed."""
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    (tmp_path / "altgate.toml").write_text('[server]\nport = 0\n[images]\nformats = ["png", "heic"]')
    return load(tmp_path / "altgate.toml", {}, {})


def test_check_names_a_decoder_that_is_missing(config: Config) -> None:
    """With what to install."""
    found = next(finding for finding in doctor.findings(config) if "heic" in finding.what)
    assert found.remedy == "install altgate[heic], or take it out of 'images.formats'"


@pytest.mark.parametrize(
    ("file", "is_well"), [("state/usage.sqlite", True), ("file", True), ("file/usage.sqlite", False), (".", False)]
)
def test_check_says_where_usage_is_kept(tmp_path: Path, file: str, is_well: bool) -> None:
    """And what to do where it cannot be; it makes no file itself."""
    (tmp_path / "file").touch()
    (tmp_path / "altgate.toml").write_text(f"[usage]\npath = '{tmp_path / file}'\n[cache]\n")

    config = load(tmp_path / "altgate.toml", {}, {})
    found = next(finding for finding in doctor.findings(config) if "usage" in finding.what)

    assert str(tmp_path / file) in found.what
    assert (found.remedy is None) is is_well
    assert is_well or "'usage.path'" in (found.remedy or "")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("length", "is_well"), [(1, True), (100, False)])
def test_check_says_where_sockets_cannot_lie(
    config: Config, monkeypatch: pytest.MonkeyPatch, length: int, is_well: bool
) -> None:
    """With what to set; the gateway would not start."""
    folder = "/" + "x" * length
    monkeypatch.setattr(tempfile, "tempdir", folder)

    found = next(finding for finding in doctor.findings(config) if "sockets" in finding.what)

    assert folder in found.what
    assert (found.remedy is None) is is_well
    assert is_well or "TMPDIR" in (found.remedy or "")


def test_serve_names_a_decoder_that_is_missing(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, at the start."""
    Parts(config)
    assert "its decoder is not installed: altgate[heic]" in caplog.text


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (UnreachableError("only a part was sent"), "invalid_image_url, because of UnreachableError (only a part was"),
        (OSError("https://user:secret@host/"), "invalid_image_url, because of OSError"),
    ],
)
def test_the_log_has_the_cause_in_our_words(cause: Exception, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """A library's may hold secrets."""
    error = refusal.unreachable("url", ["png"])
    error.__cause__ = cause
    request = cast("Any", SimpleNamespace(scope={"state": {"record": Record()}}))
    with caplog.at_level(logging.INFO):
        assert app.respond(request, error).status_code == 400
    assert told in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("elsewhere", "optional"), [("", False), ('engine = "remote"\nurls = ["http://blip/v1"]', True)]
)
def test_check_misses_pytorch_where_a_model_of_ours_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str, optional: bool
) -> None:
    """A gateway whose engines are elsewhere, as in its image, lacks nothing."""
    monkeypatch.setattr(doctor, "VERSIONS", "raise ImportError")
    (tmp_path / "altgate.toml").write_text(f"[server]\nport = 0\n[models.demo]\n{elsewhere}")

    config = load(tmp_path / "altgate.toml", {}, {})
    found = next(finding for finding in doctor.findings(config) if "PyTorch" in finding.what)

    assert found.remedy == "pip install 'altgate[blip]'"
    assert found.optional is optional
