"""How an answer is put together."""

import pytest

from gateway import completion, wire
from gateway.completion import Gathered, Head
from gateway.errors import EngineFault
from gateway.wire import Choice, Chunk, ChunkChoice, Delta, Usage

HEAD = Head(id="chatcmpl-1", created=5, model="gpt-4o", system_fingerprint="r-p-1", include_usage=False)
WITH_USAGE = Head(id="chatcmpl-1", created=5, model="gpt-4o", system_fingerprint="r-p-1", include_usage=True)
USAGE = Usage(3, 2, 5)


def choice(content: str, index: int = 0, refusal: str | None = None) -> Choice:
    """A choice with that content."""
    return Choice(index=index, message=wire.AssistantMessage(content=content, refusal=refusal), finish_reason="stop")


def engine_chunk(delta: Delta, reason: wire.FinishReason | None = None, index: int = 0) -> Chunk:
    """A chunk as an engine sends it, under the engine's own name."""
    piece = ChunkChoice(index=index, delta=delta, finish_reason=reason)
    return Chunk(id="e", created=1, model="internal", choices=[piece])


def test_a_whole_answer_has_the_clients_name_for_the_model() -> None:
    """Whatever alias was used, it is echoed."""
    whole = completion.whole(HEAD, [choice("a cat")], USAGE)

    assert (whole.model, whole.id, whole.created, whole.system_fingerprint) == ("gpt-4o", "chatcmpl-1", 5, "r-p-1")


def test_a_replay_gathers_to_the_same_answer() -> None:
    """Streaming a kept answer and putting it together again changes nothing, refusals and several choices included."""
    choices = [choice("a cat"), choice("a dog", 1), choice("No picture.", 2, refusal="No picture.")]
    gathered = Gathered()
    for chunk in completion.replayed(WITH_USAGE, choices, USAGE):
        gathered.add(chunk)

    assert gathered.result() == (choices, USAGE)


def test_usage_is_null_in_every_chunk_and_comes_last_when_asked_for() -> None:
    """As OpenAI does it; without being asked, no chunk has the field."""
    asked = list(completion.replayed(WITH_USAGE, [choice("a cat")], USAGE))
    not_asked = list(completion.replayed(HEAD, [choice("a cat")], USAGE))

    assert [chunk.usage for chunk in asked] == [None, None, None, USAGE]
    assert asked[-1].choices == []
    assert all(b'"usage"' not in wire.encode(chunk) for chunk in not_asked)


def test_an_engines_chunk_is_restamped() -> None:
    """Its words stay, its name, id and time become ours."""
    chunk = completion.restamped(HEAD, engine_chunk(Delta(content="a cat")))

    assert (chunk.id, chunk.created, chunk.model) == ("chatcmpl-1", 5, "gpt-4o")
    assert chunk.choices[0].delta.content == "a cat"


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [engine_chunk(Delta(content="a"))],
        [engine_chunk(Delta(content="a"), "stop")],
        [engine_chunk(Delta(content="a")), Chunk(id="e", created=1, model="m", choices=[], usage=USAGE)],
    ],
)
def test_a_stream_without_an_end_or_a_cost_is_a_fault(chunks: list[Chunk]) -> None:
    """Half an answer is never taken for a whole one, so it is never kept."""
    gathered = Gathered()
    for chunk in chunks:
        gathered.add(chunk)

    with pytest.raises(EngineFault):
        gathered.result()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"alt_text": "a cat"}', "a cat"),
        ('{"alt_text": ""}', ""),
        ('{"alt_text": 5}', '{"alt_text": 5}'),
        ('{"other": "a cat"}', '{"other": "a cat"}'),
        ('{"alt_text": "a c', '{"alt_text": "a c'),
        ("just words", "just words"),
    ],
)
def test_a_presets_object_is_unwrapped_to_its_words(content: str, text: str) -> None:
    """A client that asked for text gets the words; what is no such object is passed on as it is."""
    assert completion.unwrapped(choice(content), "alt_text").message.content == text
