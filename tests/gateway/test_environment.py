"""Settings in the environment, whose values may lie in files."""

from pathlib import Path

import pytest

from gateway import config
from gateway.environment import FILE, LONGEST, settings
from gateway.values import ConfigError

URL = "redis://:s3cret@redis:6379/0"


def test_a_value_may_lie_in_a_file(tmp_path: Path) -> None:
    """As containers are given secrets; the end of the line that an editor leaves is no part of the value."""
    (tmp_path / "redis_url").write_text(f"{URL}\n")
    (tmp_path / "port").write_text("9000")
    environ = {
        "ALTGATE_CACHE__REDIS_FILE": str(tmp_path / "redis_url"),
        "ALTGATE_SERVER__PORT_FILE": str(tmp_path / "port"),
        "ALTGATE_IMAGES__FORMATS": '["png"]',
    }

    assert settings(environ) == {
        "cache": {"redis": URL},
        "server": {"port": 9000},
        "images": {"formats": ["png"]},
    }


def test_a_keys_digest_may_lie_in_a_file(tmp_path: Path) -> None:
    """The name of the key stands in the variable, as without a file."""
    (tmp_path / "digest").write_text(f"sha256:{'a1' * 32}\n")
    (tmp_path / "altgate.toml").write_text("")

    loaded = config.load(tmp_path / "altgate.toml", {"ALTGATE_KEYS__WEB__DIGEST_FILE": str(tmp_path / "digest")}, {})

    assert [key.caller.key_id for key in loaded.keys] == ["web"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [(None, "No such file"), (b"", "holds no value"), (b"\n", "holds no value"), (b"\xff\xfe", "is not text")],
)
def test_a_file_without_a_value_is_a_fault(tmp_path: Path, content: bytes | None, cause: str) -> None:
    """It names the variable, the file and the cause."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=f"ALTGATE_CACHE__REDIS_FILE.*{file}.*{cause}"):
        settings({"ALTGATE_CACHE__REDIS_FILE": str(file)})


def test_what_a_file_holds_is_bounded_and_never_repeated(tmp_path: Path) -> None:
    """Neither an endless file nor a secret that is none of the setting's kind reaches memory or a message."""
    file = tmp_path / "secret"
    file.write_text("s3cret" * LONGEST)
    with pytest.raises(ConfigError) as endless:
        settings({"ALTGATE_CACHE__REDIS_FILE": str(file)})
    file.write_text("s3cret")
    (tmp_path / "altgate.toml").write_text("")
    with pytest.raises(ConfigError) as wrong:
        config.load(tmp_path / "altgate.toml", {"ALTGATE_CACHE__REDIS_FILE": str(file)}, {})

    assert "s3cret" not in str(endless.value) + str(wrong.value)
    assert "cache" in str(wrong.value)


def test_a_value_and_a_file_for_one_setting_are_a_fault(tmp_path: Path) -> None:
    """Nobody has to know which of them would win."""
    (tmp_path / "url").write_text(URL)
    environ = {"ALTGATE_CACHE__REDIS": URL, "ALTGATE_CACHE__REDIS_FILE": str(tmp_path / "url")}

    with pytest.raises(ConfigError, match=r"ALTGATE_CACHE__REDIS_FILE sets what ALTGATE_CACHE__REDIS sets"):
        settings(environ)


def test_no_setting_looks_like_a_file_of_another() -> None:
    """The end of a name says how its value is given, and nothing else."""
    sections = [
        *(getattr(config, name) for name in dir(config) if name.endswith("Config") and name != "Config"),
    ]

    assert sections
    assert not [key for section in sections for key in section.__struct_fields__ if key.endswith(FILE)]
