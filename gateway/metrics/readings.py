"""What is read when somebody scrapes, and not counted before: how things stand, and what the parts count themselves."""

from collections.abc import Iterator

from prometheus_client import ProcessCollector

from gateway import __version__
from gateway.cache import Cache
from gateway.engine import Engine
from gateway.images.ingest import Ingest
from gateway.life import Spans, State
from gateway.limits import Gate
from gateway.local import LocalEngine
from gateway.metrics import declared
from gateway.metrics.counts import Labels, Sample
from gateway.metrics.declared import Metric
from gateway.parts import Parts
from gateway.remote import RemoteEngine

_PROCESS = {
    "process_cpu_seconds": declared.CPU_SECONDS,
    "process_resident_memory_bytes": declared.RESIDENT_BYTES,
    "process_open_fds": declared.OPEN_FDS,
    "process_max_fds": declared.MAX_FDS,
    "process_start_time_seconds": declared.STARTED,
}


def readings(parts: Parts, gate: Gate) -> Iterator[Sample]:
    """Every reading of this process."""
    yield _one(declared.INFO, 1, __version__)
    yield from _process()
    yield _one(declared.IN_FLIGHT, gate.requests)
    yield _one(declared.BYTES_IN_FLIGHT, gate.bytes)
    for limit, count in parts.common.books.refused.items():
        yield _one(declared.LIMIT_REFUSALS, count, limit)
    yield from _pictures(parts.ingest)
    yield from _cache(parts.captioner.cache)
    if parts.common.link is not None:
        yield _one(declared.REDIS_UP, not parts.common.link.is_down)
    for name, engine in parts.captioner.engines.items():
        yield from engine_readings(name, engine)


def _one(metric: Metric, value: float, *labels: str) -> Sample:
    return Sample(metric.name, labels, (float(value),))


def _spans(metric: Metric, spans: Spans, *labels: str) -> Iterator[Sample]:
    if spans.count:
        yield Sample(metric.name, labels, (spans.count, spans.seconds))


def _process() -> Iterator[Sample]:
    for family in ProcessCollector(registry=None).collect():
        if (metric := _PROCESS.get(family.name)) is not None:
            yield _one(metric, family.samples[0].value)


def _pictures(ingest: Ingest) -> Iterator[Sample]:
    pool, decoded = ingest.pool, ingest.decoded
    yield _one(declared.DECODE_LINE, pool.in_line)
    yield _one(declared.DECODE_BYTES, pool.budget.size - pool.budget.free)
    yield _one(declared.DECODED_BYTES, decoded.size - decoded.free)
    yield _one(declared.DECODERS_LOST, pool.lost)


def _cache(cache: Cache) -> Iterator[Sample]:
    tally, kept = cache.tally, cache.in_memory
    results = {"hit": tally.hits, "miss": tally.misses, "join": tally.joins, "bypass": tally.bypasses}
    for result, count in results.items():
        yield _one(declared.CACHE_RESULTS, count, result)
    yield _one(declared.CACHE_SAVED_SECONDS, tally.seconds)
    yield _one(declared.CACHE_SAVED_TOKENS, tally.tokens)
    yield _one(declared.CACHE_NOT_SHARED, cache.not_shared)
    yield _one(declared.CACHE_BYTES, kept.bytes)
    yield _one(declared.CACHE_ENTRIES, kept.entries)


def engine_readings(name: str, engine: Engine) -> Iterator[Sample]:
    """How the engine of that model stands, and what it has been through."""
    now = engine.status.state
    for state in State:
        yield _one(declared.ENGINE_STATE, state is now, name, state)
    if isinstance(engine, LocalEngine):
        yield from _local(name, engine)
    elif isinstance(engine, RemoteEngine):
        yield from _remote(name, engine)


def _local(name: str, engine: LocalEngine) -> Iterator[Sample]:
    past, seat = engine.process.past, engine.seat
    yield _one(declared.ENGINE_LINE, seat.in_line, name)
    yield _one(declared.ENGINE_BUSY, seat.seen().busy, name)
    yield from _spans(declared.LOAD_SECONDS, past.loads, name)
    yield from _spans(declared.WAKE_SECONDS, past.wakings, name)
    yield from _spans(declared.SWAP_SECONDS, past.swaps, name)
    yield _one(declared.RESTARTS, past.restarts, name)
    yield _one(declared.FAILED_STARTS, engine.process.failed_starts, name)


def _remote(name: str, engine: RemoteEngine) -> Iterator[Sample]:
    for place, replica in enumerate(engine.replicas):
        labels: Labels = (name, str(place))
        yield _one(declared.REPLICA_UP, replica.trouble is None, *labels)
        yield _one(declared.REPLICA_OPEN, not replica.breaker.closed, *labels)
        yield _one(declared.REPLICA_BUSY, replica.in_flight, *labels)
