"""What is known of a request, and what a client is told of its times."""

import re

import pytest

from gateway.record import Record
from tests import pictures
from tests.flows.raw import chat
from tests.services import Server


def test_a_request_is_in_one_stage_at_a_time() -> None:
    """Entering a stage ends the one before; one that is entered twice is added up."""
    record = Record()

    record.enter("fetch")
    record.enter("cache")
    first = record.stages["fetch"]
    record.enter("fetch")
    record.close()

    assert list(record.stages) == ["fetch", "cache"]
    assert record.stages["fetch"] > first
    assert sum(record.stages.values()) <= record.seconds


def test_the_time_so_far_of_a_stage_that_lasts_is_told() -> None:
    """An answer's headers are sent while its stream is still made."""
    record = Record()
    record.enter("engine")

    told = record.timing()

    assert re.fullmatch(r"engine;dur=\d+\.\d\d, total;dur=\d+\.\d\d", told)
    record.close()
    assert record.stages["engine"] >= float(told.split("=")[1].split(",")[0]) / 1000


def test_what_a_client_takes_to_send_its_request_is_not_our_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a stage of its own."""
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    record = Record(started=now)
    record.enter("receive")
    now = 107.0
    record.enter("parse")
    now = 107.5

    assert (record.elapsed(), record.worked()) == (7.5, 0.5)


def test_answers_carry_what_they_took(server: Server) -> None:
    """`server-timing` names every stage, for an answer that was made and for one that was kept."""
    messages = [pictures.message(pictures.data_url(pictures.png(pictures.SCENES[101])))]

    made, kept = (chat(server, messages=messages) for _ in range(2))

    before = ["receive", "parse", "fetch", "cache"]
    assert list(stages(made.headers["server-timing"])) == [*before, "queue", "decode", "engine", "total"]
    assert list(stages(kept.headers["server-timing"])) == [*before, "total"]
    assert made.headers["openai-processing-ms"].isdecimal()


def test_stages_make_up_the_total(server: Server) -> None:
    """What a request took is told of the stages that it was in, of a stream until its first words."""
    for stream in (False, True):
        url = pictures.data_url(pictures.png(pictures.SCENES[102 + stream]))
        answer = chat(server, messages=[pictures.message(url)], stream=stream)
        times = stages(answer.headers["server-timing"])
        total = times.pop("total")

        assert 0.5 * total < sum(times.values()) <= total + 0.01 * len(times)  # each is rounded
        assert times["engine"] > 0
        assert int(answer.headers["openai-processing-ms"]) <= total + 1


def stages(header: str) -> dict[str, float]:
    """What a Server-Timing header says, in milliseconds."""
    parts = (part.split(";dur=") for part in header.split(", "))
    return {name: float(milliseconds) for name, milliseconds in parts}
