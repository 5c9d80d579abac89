"""Requests that are known again by their bytes: exactly, each caller its own, bounded, and forgotten on demand."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from litestar.types import Scope

from gateway import wire
from gateway.auth import ANONYMOUS, Caller
from gateway.cache import Selection
from gateway.captioning import Job
from gateway.config import ImagesConfig
from gateway.images.ingest import Ingest
from gateway.quota import Allowance, LocalBooks
from gateway.recall import Recall
from gateway.record import Record
from gateway.routes.asking import Asking
from tests import pictures
from tests.gateway.test_captioning import URL, Altgate, FakeEngine, Site, answer

ANN, BOB = (Caller(key_id=name, team=name) for name in ("ann", "bob"))
PICTURE = pictures.data_url(pictures.png(pictures.SCENES[0]))


def body(words: str = "What is it?", url: str = PICTURE) -> bytes:
    """A request."""
    return json.dumps({"model": "m", "messages": [pictures.message(url, text=words)]}).encode()


@pytest.fixture
async def altgate() -> AsyncIterator[Altgate]:
    """A captioner whose engine says the same of everything."""
    async with Ingest(Site(), ImagesConfig()) as ingest:
        yield Altgate(FakeEngine(answer("a cat")), ingest, "vllm")


@pytest.fixture
def hit(altgate: Altgate) -> Callable[..., Any]:
    """A request made ready whose answer was kept before."""

    async def made(sent: bytes, caller: Caller = ANN, **known: Any) -> Job:
        for _ in range(2):
            record = Record(caller=caller, **known)
            job = await altgate.captioner.prepare(wire.decode_request(sent), caller, record=record)
            await altgate.captioner.answer(job)
        assert job.found is not None
        return job

    return made


async def test_the_same_bytes_are_the_same_request(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """In whichever blocks they come; the answer is a new one, with all that was known of the first."""
    recall = Recall(altgate.captioner.cache, max_bytes=2**20)
    first = await hit(body())
    recall.note(body(), first, ["top_k"])

    for size in (1, 100, 10**6):
        blocks = [body()[at : at + size] for at in range(0, len(body()), size)]
        known, record = recall.find(ANN, blocks), Record(caller=ANN)
        assert known is not None
        job = await recall.job(known, record)
        assert job is not None
        assert job.found == first.found
        assert job.head.id != first.head.id
        assert known.ignored == ["top_k"]
        assert record.cache == "hit"
        assert record.model == "m"
        assert (record.digests, record.notes) == (first.record.digests, first.record.notes)
        assert (await altgate.captioner.answer(job)).choices[0].message.content == "a cat"


async def test_no_other_bytes_are(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """Neither shorter nor longer ones, nor any that differ in one place."""
    recall, sent = Recall(altgate.captioner.cache, max_bytes=2**20), body()
    recall.note(sent, await hit(sent), [])

    for at in range(len(sent)):
        assert recall.find(ANN, [sent[:at], bytes([sent[at] ^ 1]), sent[at + 1 :]]) is None
    assert recall.find(ANN, [sent[:-1]]) is None
    assert recall.find(ANN, [sent, b" "]) is None
    assert recall.find(ANN, []) is None


async def test_nobody_is_taken_for_another(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """Nor for who they were before their key was changed."""
    recall = Recall(altgate.captioner.cache, max_bytes=2**20)
    recall.note(body(), await hit(body()), [])

    for other in (BOB, ANONYMOUS, Caller(key_id="ann", team="ann", models=frozenset())):
        assert recall.find(other, [body()]) is None
    assert recall.find(Caller(key_id="ann", team="ann"), [body()]) is not None


async def test_several_of_one_length_are_told_apart(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """As many as eight; then the one goes that was not sent for longest."""
    recall = Recall(altgate.captioner.cache, max_bytes=2**20)
    sent = [body(f"What is it, {letter}?") for letter in "abcdefgh"]
    for each in sent:
        for _ in range(2):  # as two do who ask at the same time
            recall.note(each, await hit(each), [])
    assert [known and known.body for known in (recall.find(ANN, [each]) for each in sent)] == sent

    first = recall.find(ANN, [sent[0]])
    assert first is not None
    assert await recall.job(first, Record(caller=ANN)) is not None
    sent.append(body("What is it, i?"))
    recall.note(sent[-1], await hit(sent[-1]), [])

    assert [recall.find(ANN, [each]) is None for each in sent] == [False, True, *[False] * 7]


async def test_memory_is_bounded_and_what_was_used_stays(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """Of all that callers send, and of a single body, which may be too large for it."""
    recall = Recall(altgate.captioner.cache, max_bytes=20_000)
    job = await hit(body("x"))
    recall.note(b"first", job, [])
    for number in range(100):
        recall.note(b"x" * number * 50, job, [])
        first = recall.find(ANN, [b"first"])
        assert first is not None
        assert await recall.job(first, Record(caller=ANN)) is not None
        assert recall.bytes <= 20_000
    before = recall.bytes

    recall.note(b"x" * 20_000, job, [])

    assert recall.bytes == before
    assert recall.find(ANN, [b"x" * 99 * 50]) is not None
    assert recall.find(ANN, [b"x" * 50]) is None


async def test_nothing_stays_for_long_that_is_not_sent_again(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """Five minutes; what clients send is theirs."""
    now = 0.0
    recall, other = Recall(altgate.captioner.cache, max_bytes=2**20, clock=lambda: now), body("Other words.")
    for sent in (body(), other):
        recall.note(sent, await hit(sent), [])
    now = 299.0
    known = recall.find(ANN, [other])
    assert known is not None
    await recall.job(known, Record(caller=ANN))
    recall.tidy()
    assert recall.find(ANN, [body()]) is not None

    now = 301.0
    recall.tidy()
    assert [recall.find(ANN, [sent]) is None for sent in (body(), other)] == [True, False]
    now = 600.0
    recall.tidy()
    assert recall.bytes == 0


async def test_a_removal_is_of_everything_here(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """Whatever answers are removed, no request stays that might have been for one of them."""
    recall = Recall(altgate.captioner.cache, max_bytes=2**20)
    for caller in (ANN, BOB):
        recall.note(body(), await hit(body(), caller), [])

    await altgate.captioner.cache.remove(Selection(scope="bob"))

    assert recall.bytes == 0
    assert recall.find(ANN, [body()]) is None


async def test_an_answer_that_is_gone_is_not_found(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """The request is then to be read as any other, and is forgotten."""
    recall, job = Recall(altgate.captioner.cache, max_bytes=2**20), await hit(body())
    recall.note(body(), job, [])
    known = recall.find(ANN, [body()])
    altgate.captioner.cache._memory.drop(job.key or "")

    assert known is not None
    record = Record(caller=ANN)
    assert await recall.job(known, record) is None
    assert (record.model, record.cache, recall.bytes) == (None, None, 0)


async def test_what_has_to_be_read_each_time_is_not_remembered(altgate: Altgate, hit: Callable[..., Any]) -> None:
    """A picture behind a URL may have become another; a prompt that is to be logged has to be had; what was not found
    costs its engine anyway.
    """
    recall = Recall(altgate.captioner.cache, max_bytes=2**20)
    fetched = body(url=URL)
    recall.note(fetched, await hit(fetched), [])
    recall.note(body(), await hit(body(), keeps_prompt=True), [])
    recall.note(body("New?"), await altgate.captioner.prepare(wire.decode_request(body("New?")), ANN), [])

    assert recall.bytes == 0


async def test_of_many_fields_that_are_ignored_those_are_kept_that_are_told(altgate: Altgate) -> None:
    """A body of thousands of names would take many times its own size."""
    fields = {f"f{number:04}": 0 for number in range(5000)} | {"é\r\n": 0}
    sent = json.dumps({**json.loads(body()), **fields}).encode()
    recall = Recall(altgate.captioner.cache, max_bytes=2**20)
    asking = Asking(altgate.captioner, recall, longest_wait=60)
    for _ in range(2):
        state = {"record": Record(caller=ANN), "allowance": Allowance(ANN, LocalBooks()), "hold": lambda _: None}
        job, ignored = await asking.prepared(cast("Scope", {"headers": [], "state": state}), [sent])
        await altgate.captioner.answer(job)

    known = recall.find(ANN, [sent])
    assert known is not None
    assert known.ignored == ignored == [f"f{number:04}" for number in range(20)]
