"""From samples to what Prometheus reads."""

from collections.abc import Iterable, Iterator, Sequence

import prometheus_client
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.metrics.counts import Sample
from gateway.metrics.declared import ALL, Metric

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
Family = prometheus_client.Metric


class _Scrape(Collector):
    """What is there at one moment, as a collector of the library's."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples: dict[str, list[Sample]] = {metric.name: [] for metric in ALL}
        for sample in samples:
            self._samples[sample.metric].append(sample)

    def collect(self) -> Iterator[Family]:
        """The families, those without a sample left out."""
        for metric in ALL:
            if samples := self._samples[metric.name]:
                yield _family(metric, samples)


def exposed(samples: Iterable[Sample]) -> bytes:
    """The samples in the form that every scraper reads. Takes milliseconds."""
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(samples))
    return prometheus_client.generate_latest(registry)


def _family(metric: Metric, samples: Sequence[Sample]) -> Family:
    family = Family(metric.name.removesuffix("_total"), metric.text, metric.kind)
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    for sample in samples:
        labels = dict(zip(metric.labels, sample.labels, strict=True))
        match metric.kind:
            case "histogram":
                _add_histogram(family, metric.name, labels, bounds, sample.values)
            case "summary":
                family.add_sample(f"{metric.name}_count", labels, sample.values[0])
                family.add_sample(f"{metric.name}_sum", labels, sample.values[1])
            case _:
                family.add_sample(metric.name, labels, sample.values[0])
    return family


def _add_histogram(
    family: Family, name: str, labels: dict[str, str], bounds: Sequence[str], values: Sequence[float]
) -> None:
    """Each bucket holds what is in those below it as well."""
    total = 0.0
    for bound, count in zip(bounds, values, strict=False):
        total += count
        family.add_sample(f"{name}_bucket", {**labels, "le": bound}, total)
    family.add_sample(f"{name}_count", labels, total)
    family.add_sample(f"{name}_sum", labels, values[-1])
