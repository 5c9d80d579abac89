"""What is known of a request, and what a client is told of its times."""

import re

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


def test_answers_carry_what_they_took(server: Server) -> None:
    """`server-timing` names every stage, for an answer that was made and for one that was kept."""
    messages = [pictures.message(pictures.data_url(pictures.png(pictures.SCENES[101])))]

    made, kept = (chat(server, messages=messages) for _ in range(2))

    assert stages(made.headers["server-timing"]) == ["parse", "fetch", "cache", "queue", "decode", "engine", "total"]
    assert stages(kept.headers["server-timing"]) == ["parse", "fetch", "cache", "total"]
    assert made.headers["openai-processing-ms"].isdecimal()


def stages(header: str) -> list[str]:
    """The names in a Server-Timing header."""
    return [part.partition(";")[0] for part in header.split(", ")]
