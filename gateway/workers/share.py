"""How what is bounded for all workers together is divided among them. Pure."""

from math import ceil

from msgspec.structs import replace

from gateway.config import Config
from gateway.values import Bytes

OWN = 8  # the part of the memory for pictures that all workers give out by themselves: one in so many


def share(config: Config) -> Config:
    """The configuration for one of the workers. Memory for pictures is not divided in it: see `own_memory`."""
    count = config.server.workers
    server, cache = config.server, config.cache
    copies = cache.max_bytes if cache.redis is not None else cache.max_bytes // 2  # the other half is the owner's
    return replace(
        config,
        server=replace(
            server,
            max_connections=ceil(server.max_connections / count),
            max_requests=ceil(server.max_requests / count),
            max_bytes_in_flight=Bytes(server.max_bytes_in_flight // count),
        ),
        cache=replace(cache, max_bytes=Bytes(copies // count)),
    )


def own_memory(config: Config) -> int:
    """How many bytes of the memory for pictures each worker gives out itself; the owner gives out the rest."""
    return config.images.max_decoded // (OWN * config.server.workers)
