"""How an answer is put together."""

import msgspec
import pytest

from gateway import completion, wire
from gateway.completion import Gathered, Head
from gateway.errors import EngineFault
from gateway.wire import (
    CalledFunction,
    Choice,
    Chunk,
    ChunkChoice,
    Delta,
    FunctionDelta,
    Logprobs,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

HEAD = Head(id="chatcmpl-1", created=5, model="gpt-4o", system_fingerprint="r-p-1", include_usage=False)
WITH_USAGE = Head(id="chatcmpl-1", created=5, model="gpt-4o", system_fingerprint="r-p-1", include_usage=True)
USAGE = Usage(3, 2, 5)
LIKELY = TokenLogprob("a", -0.5, [97], [TopLogprob("b", -1.5, [98])])


def choice(content: str | None, index: int = 0, refusal: str | None = None) -> Choice:
    """A choice with that content."""
    return Choice(index=index, message=wire.AssistantMessage(content=content, refusal=refusal), finish_reason="stop")


def calling(*calls: tuple[str, str, str], content: str | None = None, index: int = 0) -> Choice:
    """A choice that makes those calls, each an id, a name and arguments."""
    made = [ToolCall(id_, CalledFunction(name, arguments)) for id_, name, arguments in calls]
    message = wire.AssistantMessage(content=content, tool_calls=made)
    return Choice(index=index, message=message, finish_reason="tool_calls")


def engine_chunk(delta: Delta, reason: wire.FinishReason | None = None, index: int = 0) -> Chunk:
    """A chunk as an engine sends it, under the engine's own name."""
    piece = ChunkChoice(index=index, delta=delta, finish_reason=reason)
    return Chunk(id="e", created=1, model="internal", choices=[piece])


def test_a_whole_answer_has_the_clients_name_for_the_model() -> None:
    """Whatever alias was used, it is echoed."""
    whole = completion.whole(HEAD, [choice("a cat")], USAGE)

    assert (whole.model, whole.id, whole.created, whole.system_fingerprint) == ("gpt-4o", "chatcmpl-1", 5, "r-p-1")


def test_a_replay_gathers_to_the_same_answer() -> None:
    """Streaming a kept answer and putting it together again changes nothing, whatever it holds."""
    likely = Logprobs([LIKELY, LIKELY], None)
    choices = [
        msgspec.structs.replace(choice("a cat"), logprobs=likely),
        choice("", 1),
        choice("No picture.", 2, refusal="No picture."),
        choice(None, 3, refusal="No."),
        calling(("c1", "f", '{"a": 1}'), ("c2", "g", ""), index=4),
        calling(("c1", "f", "{}"), content="Let me see.", index=5),
    ]
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
        [engine_chunk(Delta(content="a"), "stop"), engine_chunk(Delta(content="b"), index=1)],
        [engine_chunk(Delta(content="a")), Chunk(id="e", created=1, model="m", choices=[], usage=USAGE)],
    ],
)
def test_a_stream_without_an_end_is_a_fault(chunks: list[Chunk]) -> None:
    """Half an answer is never taken for a whole one, so it is never kept."""
    gathered = Gathered()
    for chunk in chunks:
        gathered.add(chunk)

    with pytest.raises(EngineFault):
        gathered.result()


def test_a_stream_without_a_cost_is_still_an_answer() -> None:
    """Not every server counts for us; where it counts more than once, the last count is the one."""
    gathered = Gathered()
    gathered.add(engine_chunk(Delta(content="a"), "stop"))
    uncounted = gathered.result()
    for usage in (Usage(9, 9, 18), USAGE):
        gathered.add(Chunk(id="e", created=1, model="m", choices=[], usage=usage))

    assert uncounted == ([choice("a")], Usage(0, 0, 0))
    assert gathered.result() == ([choice("a")], USAGE)


def test_choices_and_calls_that_come_interleaved_are_told_apart() -> None:
    """Each piece goes to its own choice, and to its own call in it; logprobs stand in a row."""
    gathered = Gathered()
    for index, delta in (
        (1, Delta(role="assistant", content="")),
        (0, Delta(role="assistant")),
        (0, Delta(tool_calls=[ToolCallDelta(1, "c2", "function", FunctionDelta("g", '{"b"'))])),
        (1, Delta(content="a ")),
        (0, Delta(tool_calls=[ToolCallDelta(0, "c1", "function", FunctionDelta("f"))])),
        (0, Delta(tool_calls=[ToolCallDelta(1, function=FunctionDelta(arguments=": 2}")), ToolCallDelta(0)])),
        (1, Delta(content="cat")),
        (0, Delta(tool_calls=[ToolCallDelta(0, function=FunctionDelta(arguments="{}"))])),
    ):
        piece = ChunkChoice(index=index, delta=delta, logprobs=Logprobs([LIKELY]) if delta.content else None)
        gathered.add(Chunk(id="e", created=1, model="m", choices=[piece]))
    gathered.add(engine_chunk(Delta(), "stop", 1))
    gathered.add(engine_chunk(Delta(), "tool_calls", 0))

    choices, _ = gathered.result()

    assert choices[0] == calling(("c1", "f", "{}"), ("c2", "g", '{"b": 2}'))
    assert choices[1] == msgspec.structs.replace(choice("a cat", 1), logprobs=Logprobs([LIKELY, LIKELY]))


def test_ends_that_an_engine_owes_are_added() -> None:
    """A stream that is over without its reasons ends as it looks: words stopped, calls were made."""
    gathered = Gathered()
    call = ToolCallDelta(0, "c", "function", FunctionDelta("f", "{}"))
    gathered.add(engine_chunk(Delta(content="a"), "length"))
    gathered.add(engine_chunk(Delta(content="b"), index=1))
    gathered.add(engine_chunk(Delta(tool_calls=[call]), index=2))

    ends = gathered.close(HEAD)

    assert ends is not None
    assert [(end.index, end.finish_reason) for end in ends.choices] == [(1, "stop"), (2, "tool_calls")]
    assert gathered.close(HEAD) is None
    assert [each.finish_reason for each in gathered.result()[0]] == ["length", "stop", "tool_calls"]


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


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"alt_text": "a c', "a c"),
        ('{ "alt_text" :\n"say \\"a\\" c', 'say "a" c'),
        ('{"alt_text": "a \\', "a "),
        ('{"alt_text": "a \\u00e', "a "),
        ('{"alt_text": "a \\u00e9', "a é"),
        ('{"alt_text": "a \\ud83d', "a "),
        ('{"alt_text": "a \\ud83d\\ude00', "a 😀"),
        ('{"alt_text": "a \\\\ud83d', "a \\ud83d"),
        ('{"alt_text": "a cat"', "a cat"),
        ('{"alt_', ""),
        ("  {", ""),
        ("", ""),
        ("just wor", "just wor"),
        ('{"alt_text": "a cat"}', "a cat"),
    ],
)
def test_of_a_presets_object_that_was_cut_off_the_words_are_kept(content: str, text: str) -> None:
    """The client gets the words that there are, and is told that they are not all."""
    cut = msgspec.structs.replace(choice(content), finish_reason="length")

    unwrapped = completion.unwrapped(cut, "alt_text")

    assert (unwrapped.message.content, unwrapped.finish_reason) == (text, "length")


def test_calls_and_refusals_have_nothing_to_unwrap() -> None:
    """What is not in words stays as it is."""
    spoken = calling(("c", "f", "{}"), content='{"alt_text": "a cat"}')
    for other in (calling(("c", "f", "{}")), spoken, choice(None, refusal="No.")):
        assert completion.unwrapped(other, "alt_text") == other
