"""Who wants to know of requests hears of each, once, and in order."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from gateway import telling
from gateway.record import Record, Teller
from gateway.telling import Telling, each


@pytest.fixture(autouse=True)
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long that all that a test does falls into one."""
    monkeypatch.setattr(telling, "PAUSE", 0.2)


def telling_of(heard: list[str]) -> Teller:
    """Notes the ids of the requests it is told of."""
    return lambda records: heard.extend(record.id for record in records)


async def test_the_first_is_told_of_at_once_and_those_behind_it_together() -> None:
    """By itself, after a pause; nobody has to ask."""
    heard: list[str] = []
    told = Telling([telling_of(heard)])
    records = [Record() for _ in range(4)]

    for record in records:
        told.over(record)
    at_once = [*heard]
    async with asyncio.timeout(10):
        while len(heard) < len(records):
            await asyncio.sleep(0.005)

    assert at_once == [records[0].id]
    assert heard == [record.id for record in records]


async def test_who_wants_to_know_now_hears_of_all() -> None:
    """A scrape sees the requests that were answered before it, and none of them twice."""
    heard: list[str] = []
    told = Telling([telling_of(heard)])
    records = [Record() for _ in range(4)]

    for record in records:
        told.over(record)
    told.tell()
    told.tell()

    assert heard == [record.id for record in records]


async def test_at_the_end_nothing_waits() -> None:
    """What is broken off is over in the last turns of the loop, when no timer will come."""
    heard: list[str] = []
    told = Telling([telling_of(heard)])
    records = [Record() for _ in range(4)]

    for record in records[:2]:
        told.over(record)
    told.end()
    for record in records[2:]:
        told.over(record)

    assert heard == [record.id for record in records]


async def test_whenever_a_request_ends_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also right when a pause ends, whatever clock that goes by: none waits for the next."""
    monkeypatch.setattr(telling, "PAUSE", 0.001)
    heard: list[str] = []
    told = Telling([telling_of(heard)])
    for _ in range(300):
        told.over(record := Record())
        async with asyncio.timeout(5):
            while record.id not in heard:
                await asyncio.sleep(0.0005)

    assert len(heard) == 300


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_fault_of_one_keeps_nothing_from_the_others(at_once: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with the request's id; of the other requests all hear, and all others hear of that one as well."""
    heard: list[str] = []
    heard_by_other: list[str] = []
    records = [Record() for _ in range(5)]

    def tell(told: Sequence[Record]) -> None:
        heard.extend([broken(record) for record in told])

    def broken(record: Record) -> str:
        if record is records[2]:
            raise ValueError("broken")
        return record.id

    told = Telling([tell if at_once else each(lambda record: tell([record])), telling_of(heard_by_other)])
    with caplog.at_level(logging.ERROR):
        for record in records:
            told.over(record)
        told.tell()

    ids = [record.id for record in records]
    assert heard == [*ids[:2], *ids[3:]]
    assert heard_by_other == ids
    assert [entry.getMessage() for entry in caplog.records] == [f"{ids[2]}: could not be told of"]
