"""From what is known of requests that are over to counts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from gateway.metrics import declared
from gateway.metrics.counts import OTHER, Counts, Labels
from gateway.metrics.declared import Metric
from gateway.record import CacheResult, Record

NONE = "none"


class Routes:
    """What requests are called by the path they went to: one name for all spellings, `other` for what is not served.

    `paths` are those that are served; one that ends in `{...}` stands for all below it.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._names: dict[str, str] = {}
        self._below: list[tuple[str, str]] = []
        for path in paths:
            stem, mark, _ = path.partition("{")
            if mark:
                self._below.append((stem, _plain(stem) + "{}"))
            else:
                self._names[path] = _plain(path)

    def name(self, path: str) -> str:
        """The route's name."""
        found = self._names.get(path)
        if found is not None:
            return found
        path = "/" + "/".join(filter(None, path.split("/")))  # empty parts do not matter to Litestar
        return self._names.get(path) or next((name for stem, name in self._below if path.startswith(stem)), OTHER)


def _plain(path: str) -> str:
    return path.removeprefix("/v1") or "/"


Kind = tuple[str, str | None, int, CacheResult | None]
"""What requests are told apart by: path, model, status, and what the cache did."""

Seen = tuple[Metric, Labels, Sequence[float]]
"""The numbers that some requests have for a metric: to be added to a counter, or times for a histogram."""


class Counting:
    """Counts requests. A `Teller`.

    Of many at a time each metric is looked for once, and then told all that it is to count.
    """

    def __init__(self, counts: Counts, routes: Routes) -> None:
        self._counts = counts
        self._routes = routes

    def __call__(self, records: Sequence[Record]) -> None:
        """Counts these."""
        for metric, labels, numbers in [*self._seen(records)]:  # nothing is counted before all has been seen
            if metric.buckets:
                self._counts.observe(metric, labels, numbers)
            else:
                self._counts.add(metric, labels, sum(numbers))

    def _seen(self, records: Sequence[Record]) -> Iterator[Seen]:
        kinds = defaultdict[Kind, list[Record]](list)
        for record in records:
            kinds[record.path, record.model, record.status, record.cache].append(record)
        for (path, model, status, cache), alike in kinds.items():
            yield declared.REQUESTS, (self._routes.name(path), model or "", str(status), cache or NONE), [len(alike)]
            if model:
                yield from _of_model(model, cache, alike)
        if of_models := [record for record in records if record.model]:
            yield from _stages(of_models)
        for code in [record.error for record in records if record.error is not None]:
            yield declared.REFUSALS, (code,), [1]


def _stages(records: Sequence[Record]) -> Iterator[Seen]:
    stages = defaultdict[str, list[float]](list)
    for record in records:
        for stage, seconds in record.stages.items():
            stages[stage].append(seconds)
    for name, times in stages.items():
        yield declared.STAGE_SECONDS, (name,), times
    yield declared.STAGE_SECONDS, ("total",), [record.seconds for record in records]


def _of_model(model: str, cache: CacheResult | None, alike: Sequence[Record]) -> Iterator[Seen]:
    yield declared.MODEL_SECONDS, (model,), [record.seconds for record in alike]
    worked = [record.stages["engine"] for record in alike if "engine" in record.stages]
    if worked:
        yield declared.ENGINE_SECONDS, (model,), worked
    with_pictures = [record for record in alike if record.digests]
    if with_pictures:
        yield declared.PICTURES, (model,), [len(record.digests) for record in with_pictures]
        yield declared.PICTURE_BYTES, (model,), [record.picture_bytes for record in with_pictures]
    usages = [record.usage for record in alike if record.usage is not None]
    if usages:
        source = cache if cache in ("hit", "join") else "engine"
        yield declared.TOKENS, (model, "prompt", source), [usage.prompt_tokens for usage in usages]
        yield declared.TOKENS, (model, "completion", source), [usage.completion_tokens for usage in usages]
