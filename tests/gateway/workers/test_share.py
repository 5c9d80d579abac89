"""How bounds are divided among workers."""

from pathlib import Path

import pytest

from gateway import config
from gateway.workers.share import own_memory, share


@pytest.mark.parametrize("workers", [2, 3, 7])
@pytest.mark.parametrize("redis", ["", 'redis = "unix:///x"'], ids=["owner", "redis"])
def test_all_shares_together_are_what_is_configured(tmp_path: Path, workers: int, redis: str) -> None:
    """Requests and connections, give or take one a worker; bytes never more. The owner has half of the kept answers."""
    file = tmp_path / "altgate.toml"
    file.write_text(f"[server]\nworkers = {workers}\n[cache]\n{redis}\n")
    whole = config.load(file, {}, {})

    part = share(whole)

    for name in ("max_requests", "max_connections"):
        assert 0 <= workers * getattr(part.server, name) - getattr(whole.server, name) < workers
    assert workers * part.server.max_bytes_in_flight <= whole.server.max_bytes_in_flight
    assert 0 < workers * own_memory(whole) <= whole.images.max_decoded // 8
    owners = 0 if redis else whole.cache.max_bytes // 2
    assert whole.cache.max_bytes - workers < workers * part.cache.max_bytes + owners <= whole.cache.max_bytes
    assert (part.images, part.engines, part.models) == (whole.images, whole.engines, whole.models)
