"""What the server is told before it listens."""

import pytest

from gateway import config, listener, server


def test_idle_connections_outlive_the_pools_of_clients() -> None:
    """Clients keep connections for up to 120 s; a server that closes first loses requests to a race."""
    loaded = config.load(None, {}, {})

    assert loaded.server.keep_alive > 120
    assert server.settings(lambda: None, loaded).timeout_graceful_shutdown == 30


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_every_loopback_address_can_be_listened_on(host: str) -> None:
    """IPv4, IPv6 and the name."""
    with listener.bound(host, 0) as socket:
        assert socket.getsockname()[1] > 0
