"""Redis, for whatever gateways share: `link.py` is the way to it, `address.py` what its URL says."""

from gateway.redis.lease import Leases
from gateway.redis.link import Link, Unanswered

__all__ = ["Leases", "Link", "Unanswered"]
