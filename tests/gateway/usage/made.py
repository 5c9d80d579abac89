"""Requests that are over, and what counts of them add up to."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.auth import Caller
from gateway.record import Record
from gateway.usage.counts import Account, Counts, Query
from gateway.wire import PromptTokensDetails, Usage

ALL = Query(first="1970-01-01", last="9999-12-31")
ANN = Caller(key_id="ann", team="a")
BOB = Caller(key_id="bob", team="b")


def record(caller: Caller = ANN, **fields: Any) -> Record:
    """A request about one picture that was answered well with thirteen tokens, unless those fields say otherwise."""
    usage = Usage(10, 3, 13, PromptTokensDetails(image_tokens=4))
    well = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "model": "demo", "cache": "miss"}
    return Record(**{**well, "caller": caller, "digests": ["d"], "usage": usage, **fields})


def total(groups: Mapping[Account, Counts] | Iterable[Counts]) -> Counts:
    """All together."""
    everything = Counts()
    for counts in groups.values() if isinstance(groups, Mapping) else groups:
        everything.add(counts)
    return everything
