"""What is read when somebody scrapes, and not counted before: how things stand, and what the parts count themselves."""

from collections.abc import Iterator

from gateway.cache import Cache
from gateway.images.ingest import Ingest
from gateway.limits import Gate
from gateway.metrics import declared
from gateway.metrics.counts import Sample, one
from gateway.metrics.engines import engine_readings
from gateway.metrics.process import process_readings
from gateway.parts import Parts


def readings(parts: Parts, gate: Gate) -> Iterator[Sample]:
    """Every reading of this process."""
    yield from process_readings()
    yield one(declared.IN_FLIGHT, gate.requests)
    yield one(declared.BYTES_IN_FLIGHT, gate.bytes)
    for limit, count in parts.backing.books.refused.items():
        yield one(declared.LIMIT_REFUSALS, count, limit)
    yield from _pictures(parts.ingest)
    yield from _cache(parts.captioner.cache)
    if parts.backing.link is not None:
        yield one(declared.REDIS_UP, not parts.backing.link.is_down)
    for name, engine in parts.captioner.engines.items():
        yield from engine_readings(name, engine)


def _pictures(ingest: Ingest) -> Iterator[Sample]:
    pool, decoded = ingest.pool, ingest.decoded
    yield one(declared.DECODE_LINE, pool.in_line)
    yield one(declared.DECODE_BYTES, pool.budget.size - pool.budget.free)
    yield one(declared.DECODED_BYTES, decoded.size - decoded.free)
    yield one(declared.DECODERS_LOST, pool.lost)


def _cache(cache: Cache) -> Iterator[Sample]:
    tally, kept = cache.tally, cache.in_memory
    results = {"hit": tally.hits, "miss": tally.misses, "join": tally.joins, "bypass": tally.bypasses}
    for result, count in results.items():
        yield one(declared.CACHE_RESULTS, count, result)
    yield one(declared.CACHE_SAVED_SECONDS, tally.seconds)
    yield one(declared.CACHE_SAVED_TOKENS, tally.tokens)
    yield one(declared.CACHE_NOT_SHARED, cache.not_shared)
    yield one(declared.CACHE_BYTES, kept.bytes)
    yield one(declared.CACHE_ENTRIES, kept.entries)
