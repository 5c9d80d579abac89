"""Answers kept: the key of a request, and where answers are by key."""

from gateway.cache.key import NOT_IN_KEY, VERSION, key, loaded
from gateway.cache.selection import Selection
from gateway.cache.stored import Stored
from gateway.cache.tiers import Cache, opened

__all__ = ["NOT_IN_KEY", "VERSION", "Cache", "Selection", "Stored", "key", "loaded", "opened"]
