"""From what is known of a request that is over to counts."""

from collections.abc import Iterable

from gateway.metrics import declared
from gateway.metrics.counts import OTHER, Counts
from gateway.record import Record

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


class Counting:
    """Counts requests. A `Teller`."""

    def __init__(self, counts: Counts, routes: Routes) -> None:
        self._counts = counts
        self._routes = routes

    def __call__(self, record: Record) -> None:
        """Counts one."""
        counts, model = self._counts, record.model or ""
        route, cache = self._routes.name(record.path), record.cache or NONE
        counts.add(declared.REQUESTS, (route, model, str(record.status), cache))
        if record.error is not None:
            counts.add(declared.REFUSALS, (record.error,))
        if model:
            self._count_work(record, model)

    def _count_work(self, record: Record, model: str) -> None:
        counts = self._counts
        counts.observe_each(declared.STAGE_SECONDS, record.stages.items())
        counts.observe(declared.STAGE_SECONDS, ("total",), record.seconds)
        counts.observe(declared.MODEL_SECONDS, (model,), record.seconds)
        if (worked := record.stages.get("engine")) is not None:
            counts.observe(declared.ENGINE_SECONDS, (model,), worked)
        if record.digests:
            counts.add(declared.PICTURES, (model,), len(record.digests))
            counts.add(declared.PICTURE_BYTES, (model,), record.picture_bytes)
        if record.usage is not None:
            source = record.cache if record.cache in ("hit", "join") else "engine"
            counts.add(declared.TOKENS, (model, "prompt", source), record.usage.prompt_tokens)
            counts.add(declared.TOKENS, (model, "completion", source), record.usage.completion_tokens)
