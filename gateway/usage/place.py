"""Where usage is kept, by the configuration."""

import os
from collections.abc import Mapping
from pathlib import Path

from gateway.redis import Link
from gateway.usage.disk import DiskStore
from gateway.usage.settings import UsageConfig
from gateway.usage.shared import SharedStore
from gateway.usage.store import Store


def opened(config: UsageConfig, link: Link | None) -> Store:
    """In Redis when there is one, on disk otherwise."""
    return SharedStore(link) if link is not None else DiskStore(path(config, os.environ))


def path(config: UsageConfig, environ: Mapping[str, str]) -> Path:
    """The file, in the user's state folder unless the configuration says otherwise."""
    if config.path is not None:
        return Path(config.path).expanduser()
    state = Path(environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else _state()) / "altgate" / "usage.sqlite"


def _state() -> Path:
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:  # who runs in a container may be no user of it
        return Path("/var/lib")
