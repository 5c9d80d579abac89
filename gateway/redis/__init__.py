"""Redis, for whatever gateways share: `link.py` is the way to it, `address.py` what its URL says."""

from gateway.redis.lease import RedisLeases
from gateway.redis.link import Link

__all__ = ["Link", "RedisLeases"]
