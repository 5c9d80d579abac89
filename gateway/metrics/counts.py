"""The numbers behind the metrics: counted as plain numbers, read as samples, added up over processes. Pure.

All of a process's numbers are written by its event loop alone, so they need no locks; prometheus_client's own values
take one for every change, and can be added up over processes through files only.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from gateway.metrics.declared import ALL, Merge, Metric

MOST = 4000  # sets of labels of one metric
OTHER = "other"

Labels = tuple[str, ...]

_WAYS: dict[Merge, Callable[[tuple[float, float]], float]] = {"sum": sum, "max": max, "min": min}


class Sample(Struct, frozen=True, array_like=True):
    """The numbers of a metric under one set of labels.

    `values` are one number of a counter or gauge; count and sum of a summary; of a histogram how many fell into each
    bucket, into none, and their sum.
    """

    metric: str
    labels: Labels
    values: tuple[float, ...]


def one(metric: Metric, value: float, *labels: str) -> Sample:
    """The sample of a counter or a gauge."""
    return Sample(metric.name, labels, (float(value),))


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Sample]).decode


class Counts:
    """What has been counted since the process started."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, list[float]]] = {metric.name: {} for metric in ALL}

    def add(self, metric: Metric, labels: Labels = (), amount: float = 1.0) -> None:
        """Adds to a counter."""
        values = self._values[metric.name]
        found = values.get(labels)
        if found is None:
            found = _room(values, labels, 1)
        found[0] += amount

    def observe(self, metric: Metric, labels: Labels, times: Sequence[float]) -> None:
        """Counts times, in seconds, in a histogram: of many, those that fall into one bucket together."""
        values, buckets = self._values[metric.name], metric.buckets
        found = values.get(labels)
        if found is None:
            found = _room(values, labels, len(buckets) + 2)
        found[-1] += sum(times)
        times, counted = sorted(times), 0
        while counted < len(times):
            bucket = bisect_left(buckets, times[counted])
            until = bisect_right(times, buckets[bucket], counted) if bucket < len(buckets) else len(times)
            found[bucket] += until - counted
            counted = until

    def samples(self) -> list[Sample]:
        """All numbers as they are now."""
        return [
            Sample(name, labels, tuple(numbers))
            for name, values in self._values.items()
            for labels, numbers in values.items()
        ]


def _room(values: dict[Labels, list[float]], labels: Labels, size: int) -> list[float]:
    """Numbers for labels that are new; when there are too many of them, those of all others together."""
    kept = labels if len(values) < MOST else (OTHER,) * len(labels)
    return values.setdefault(kept, [0.0] * size)


def merged(processes: Iterable[Sequence[Sample]]) -> list[Sample]:
    """The samples of all processes of a gateway as those of one."""
    ways = {metric.name: metric.merge for metric in ALL}
    found: dict[tuple[str, Labels], Sample] = {}
    for samples in processes:
        for sample in samples:
            key = (sample.metric, sample.labels)
            other = found.get(key)
            found[key] = sample if other is None else _merged(sample, other, ways[sample.metric])
    return [*found.values()]


def lasting(samples: Iterable[Sample]) -> list[Sample]:
    """Those that count what has happened, which stay true when the process that counted is no more."""
    kinds = {metric.name: metric.kind for metric in ALL}
    return [sample for sample in samples if kinds[sample.metric] != "gauge"]


def _merged(one: Sample, other: Sample, way: Merge) -> Sample:
    pairs = zip(one.values, other.values, strict=True)
    return Sample(one.metric, one.labels, tuple(_WAYS[way](pair) for pair in pairs))
