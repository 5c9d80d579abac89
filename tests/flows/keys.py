"""Keys of clients, as they stand in a configuration and in a request."""

import hashlib


def section(name: str, key: str, *lines: str) -> str:
    """A key's section of the configuration."""
    return "\n".join([f"[keys.{name}]", f'digest = "sha256:{hashlib.sha256(key.encode()).hexdigest()}"', *lines, ""])


def with_key(key: str) -> dict[str, str]:
    """The header that carries it."""
    return {"authorization": f"Bearer {key}"}
