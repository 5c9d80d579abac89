"""Who wants to know of requests hears of each, once, and in order."""

import asyncio
import logging

import pytest

from gateway import telling
from gateway.record import Record
from gateway.telling import Telling


@pytest.fixture(autouse=True)
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long that all that a test does falls into one."""
    monkeypatch.setattr(telling, "PAUSE", 0.2)


async def test_the_first_is_told_of_at_once_and_those_behind_it_together() -> None:
    """By itself, after a pause; nobody has to ask."""
    heard: list[str] = []
    told = Telling([lambda record: heard.append(record.id)])
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
    told = Telling([lambda record: heard.append(record.id)])
    records = [Record() for _ in range(4)]

    for record in records:
        told.over(record)
    told.tell()
    told.tell()

    assert heard == [record.id for record in records]


async def test_at_the_end_nothing_waits() -> None:
    """What is broken off is over in the last turns of the loop, when no timer will come."""
    heard: list[str] = []
    told = Telling([lambda record: heard.append(record.id)])
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
    told = Telling([lambda record: heard.append(record.id)])
    for _ in range(300):
        told.over(record := Record())
        async with asyncio.timeout(5):
            while record.id not in heard:
                await asyncio.sleep(0.0005)

    assert len(heard) == 300


async def test_a_fault_of_one_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with the request's id, and all others hear of all requests."""
    heard: list[str] = []
    records = [Record() for _ in range(3)]

    def fail(record: Record) -> None:
        if record is records[1]:
            raise ValueError("broken")

    told = Telling([fail, lambda record: heard.append(record.id)])
    with caplog.at_level(logging.ERROR):
        for record in records:
            told.over(record)
        told.tell()

    assert heard == [record.id for record in records]
    assert [entry.getMessage() for entry in caplog.records] == [f"{records[1].id}: could not be told of"]
