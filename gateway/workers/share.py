"""How what is bounded for all workers together is divided among them. Pure."""

from math import ceil

from msgspec.structs import replace

from gateway.config import Config
from gateway.values import Bytes


def share(config: Config) -> Config:
    """The configuration for one of the workers.

    One picture may need more memory than a worker's share; it then has all of that share.
    """
    count = config.server.workers
    server, images, cache = config.server, config.images, config.cache
    copies = cache.max_bytes if cache.redis is not None else cache.max_bytes // 2  # the other half is the owner's
    return replace(
        config,
        server=replace(
            server,
            max_connections=ceil(server.max_connections / count),
            max_requests=ceil(server.max_requests / count),
            max_bytes_in_flight=Bytes(server.max_bytes_in_flight // count),
        ),
        images=replace(images, max_decoded=Bytes(images.max_decoded // count)),
        cache=replace(cache, max_bytes=Bytes(copies // count)),
    )
