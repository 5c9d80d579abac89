"""How engines stand, and what they have been through, read when somebody scrapes."""

from collections.abc import Iterator

from gateway.engine import Engine
from gateway.life import Spans, State
from gateway.local import LocalEngine
from gateway.metrics import declared
from gateway.metrics.counts import Labels, Sample, one
from gateway.metrics.declared import Metric
from gateway.remote import RemoteEngine


def engine_readings(name: str, engine: Engine) -> Iterator[Sample]:
    """How the engine of that model stands, and what it has been through."""
    now = engine.status.state
    for state in State:
        yield one(declared.ENGINE_STATE, state is now, name, state)
    if isinstance(engine, LocalEngine):
        yield from _local(name, engine)
    elif isinstance(engine, RemoteEngine):
        yield from _remote(name, engine)


def _local(name: str, engine: LocalEngine) -> Iterator[Sample]:
    past, seat = engine.process.past, engine.seat
    yield one(declared.ENGINE_LINE, seat.in_line, name)
    yield one(declared.ENGINE_BUSY, seat.seen().busy, name)
    yield from _spans(declared.LOAD_SECONDS, past.loads, name)
    yield from _spans(declared.WAKE_SECONDS, past.wakings, name)
    yield from _spans(declared.SWAP_SECONDS, past.swaps, name)
    yield one(declared.RESTARTS, past.restarts, name)
    yield one(declared.FAILED_STARTS, engine.process.failed_starts, name)


def _remote(name: str, engine: RemoteEngine) -> Iterator[Sample]:
    for place, replica in enumerate(engine.replicas):
        labels: Labels = (name, str(place))
        yield one(declared.REPLICA_UP, replica.trouble is None, *labels)
        yield one(declared.REPLICA_OPEN, not replica.breaker.closed, *labels)
        yield one(declared.REPLICA_BUSY, replica.in_flight, *labels)


def _spans(metric: Metric, spans: Spans, *labels: str) -> Iterator[Sample]:
    if spans.count:
        yield Sample(metric.name, labels, (spans.count, spans.seconds))
