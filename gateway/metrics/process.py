"""What can be said of a process of ours, whichever it is, read when somebody scrapes."""

from collections.abc import Iterator

from prometheus_client import ProcessCollector

from gateway import __version__
from gateway.logs import pipeline
from gateway.metrics import declared
from gateway.metrics.counts import Sample, one

_PROCESS = {
    "process_cpu_seconds": declared.CPU_SECONDS,
    "process_resident_memory_bytes": declared.RESIDENT_BYTES,
    "process_open_fds": declared.OPEN_FDS,
    "process_max_fds": declared.MAX_FDS,
    "process_start_time_seconds": declared.STARTED,
}


def process_readings() -> Iterator[Sample]:
    """Its version, what it takes of the machine, and what its log has lost."""
    yield one(declared.INFO, 1, __version__)
    yield one(declared.LOG_DROPPED, pipeline.dropped())
    for family in ProcessCollector(registry=None).collect():
        if (metric := _PROCESS.get(family.name)) is not None:
            yield one(metric, family.samples[0].value)
