"""Hearing what engines send, in all the forms that servers have been seen to send it."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from gateway import wire
from gateway.wire import CalledFunction, Delta, FunctionDelta, ToolCall, ToolCallDelta, Usage

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
MESSAGE = {"role": "assistant", "content": "a cat"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def whole(choice: dict[str, Any] | None = None, **fields: Any) -> wire.ChatCompletion:
    """What is heard of an answer with that choice and those fields."""
    plain = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"} | (choice or {})], "usage": USAGE}
    return wire.decode_completion(msgspec.json.encode(plain | fields))


def chunk(choice: dict[str, Any] | None = None, **fields: Any) -> wire.Chunk:
    """What is heard of a chunk with that choice and those fields."""
    plain = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None} | (choice or {})]}
    return wire.decode_chunk(msgspec.json.encode(plain | fields))


def test_a_plain_answer_is_heard_word_for_word() -> None:
    """And what nobody knows beside it is ignored."""
    heard = whole({"stop_reason": 106, "token_ids": None}, id="x", created=5, model="m", prompt_logprobs=None)

    assert (heard.id, heard.created, heard.model, heard.usage) == ("x", 5, "m", Usage(3, 2, 5))
    assert heard.choices == [
        wire.Choice(index=0, message=wire.AssistantMessage(content="a cat"), finish_reason="stop"),
    ]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        *((word, "stop") for word in ("stop", "eos_token", "stop_sequence", "end_turn", "COMPLETE", None, "")),
        *((word, "length") for word in ("length", "max_tokens", "model_length", "repetition", "never heard of")),
        *((word, "tool_calls") for word in ("tool_calls", "tool_use", "function_call")),
        *((word, "content_filter") for word in ("content_filter", "SAFETY", "refusal")),
    ],
)
def test_reasons_are_told_in_openais_words(word: str | None, reason: str) -> None:
    """What nobody knows is not taken for a complete answer; none at all is, for the answer is here."""
    assert whole({"finish_reason": word}).choices[0].finish_reason == reason
    assert chunk({"finish_reason": word}).choices[0].finish_reason == (reason if word else None)


@pytest.mark.parametrize("word", ["abort", "error", "cancelled"])
def test_an_answer_that_was_broken_off_is_none(word: str) -> None:
    """The engine gave up: half an answer is never passed on as one."""
    with pytest.raises(msgspec.DecodeError):
        whole({"finish_reason": word})
    with pytest.raises(msgspec.DecodeError):
        chunk({"finish_reason": word})


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"content": "a"}, wire.AssistantMessage(content="a")),
        ({"role": "model", "content": None}, wire.AssistantMessage(content="")),
        ({}, wire.AssistantMessage(content="")),
        (None, wire.AssistantMessage(content="")),
        ({"content": None, "refusal": "No."}, wire.AssistantMessage(content=None, refusal="No.")),
        ({"content": "No.", "refusal": "No."}, wire.AssistantMessage(content="No.", refusal="No.")),
        ({"content": "a", "tool_calls": None, "reasoning_content": "hm"}, wire.AssistantMessage(content="a")),
        ({"content": "a", "tool_calls": [], "annotations": None}, wire.AssistantMessage(content="a")),
    ],
)
def test_messages_are_heard_in_every_form(message: object, heard: wire.AssistantMessage) -> None:
    """Content is a string unless calls or a refusal stand in its place."""
    assert whole({"message": message}).choices[0].message == heard


@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_calls_are_heard(content: str | None) -> None:
    """With an id of their own, and arguments as text, whatever the server left out."""
    bare = {"function": {"name": "g", "arguments": {"b": [1]}}}
    empty = {"id": None, "function": {"name": "h", "arguments": None}, "type": None}

    choice = whole({"message": {"content": content, "tool_calls": [CALL, bare, empty]}, "finish_reason": None}).choices[
        0
    ]

    assert choice.message.content == (content or None)
    assert choice.message.tool_calls == [
        ToolCall("c1", CalledFunction("f", '{"a":1}')),
        ToolCall("call_1", CalledFunction("g", '{"b":[1]}')),
        ToolCall("call_2", CalledFunction("h", "{}")),
    ]
    assert choice.finish_reason == "tool_calls"


NO_DETAILS = Usage(3, 2, 5, wire.PromptTokensDetails())


@pytest.mark.parametrize(
    ("usage", "heard"),
    [
        (USAGE, Usage(3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(3, 2, 5)),
        ({"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 3}, Usage(3, 0, 3)),
        ({"prompt_tokens": 2**64, "completion_tokens": -(2**63) - 1, "total_tokens": 10**60}, Usage(0, 0, 0)),
        ({"prompt_tokens": 10**7 + 1, "completion_tokens": -1, "total_tokens": 2**62}, Usage(0, 0, 0)),
        ({"prompt_tokens": 1e30, "completion_tokens": 2.0, "total_tokens": "many"}, Usage(0, 2, 0)),
        (USAGE | {"prompt_tokens_details": {"multimodal_tokens": {"image": [256]}}}, NO_DETAILS),
        ({}, Usage(0, 0, 0)),
        (None, Usage(0, 0, 0)),
        (
            USAGE | {"prompt_tokens_details": None, "completion_tokens_details": None, "cost": 0.1},
            Usage(3, 2, 5),
        ),
        (
            USAGE | {"prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": None, "image_tokens": 2}},
            Usage(3, 2, 5, wire.PromptTokensDetails(cached_tokens=1, image_tokens=2)),
        ),
        (
            USAGE | {"prompt_tokens_details": {"cached_tokens": None, "multimodal_tokens": {"image": 256}}},
            Usage(3, 2, 5, wire.PromptTokensDetails(image_tokens=256)),
        ),
        (
            USAGE | {"completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": None}},
            Usage(3, 2, 5, None, wire.CompletionTokensDetails(reasoning_tokens=1)),
        ),
    ],
)
def test_usage_is_heard_in_every_form(usage: object, heard: Usage) -> None:
    """What was counted is kept, a picture's tokens in OpenAI's place; an answer without a count is still one."""
    assert whole(usage=usage).usage == heard
    assert chunk(usage=usage).usage == (heard if usage is not None else UNSET)


@pytest.mark.parametrize("number", [-1, 2**31, 2**64, 10**60])
def test_numbers_that_nobody_could_keep_are_no_answer(number: int) -> None:
    """As a place, or as a byte of a token: they are not handed to what stores answers or counts by them."""
    token = {"token": "a", "logprob": -0.5, "bytes": [number]}
    for odd in (
        {"index": number},
        {"logprobs": {"content": [token]}},
        {"logprobs": {"content": [token | {"bytes": None, "top_logprobs": [token]}]}},
    ):
        with pytest.raises(msgspec.DecodeError):
            whole(odd)
        with pytest.raises(msgspec.DecodeError):
            chunk(odd)
    with pytest.raises(msgspec.DecodeError):
        chunk({"delta": {"tool_calls": [{"index": number, "function": {"name": "f"}}]}})


def test_an_answer_without_anything_but_words_is_heard() -> None:
    """Names and times are ours to give; what is missing stands in order."""
    heard = wire.decode_completion(b'{"choices":[{"message":{"content":"a"}},{"message":{"content":"b"}}],"id":null}')

    assert [(choice.index, choice.message.content) for choice in heard.choices] == [(0, "a"), (1, "b")]
    assert (heard.id, heard.created, heard.model, heard.usage) == ("", 0, "", Usage(0, 0, 0))


def test_logprobs_are_heard_whole() -> None:
    """Of words and of chunks, with the likeliest beside them or without."""
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1}]}
    logprobs = {"content": [token, {"token": "c", "logprob": -2, "top_logprobs": None}]}

    heard = [whole({"logprobs": logprobs}).choices[0].logprobs, chunk({"logprobs": logprobs}).choices[0].logprobs]

    likely = wire.TokenLogprob("a", -0.5, [97], [wire.TopLogprob("b", -1)])
    assert heard == [wire.Logprobs([likely, wire.TokenLogprob("c", -2)])] * 2


@pytest.mark.parametrize(
    ("delta", "heard"),
    [
        ({"role": "assistant", "content": ""}, Delta(role="assistant", content="")),
        ({"role": "assistant", "content": None}, Delta(role="assistant")),
        ({"content": "a"}, Delta(content="a")),
        ({"content": "a", "refusal": None, "tool_calls": None, "reasoning": "hm"}, Delta(content="a")),
        ({"refusal": "No."}, Delta(refusal="No.")),
        ({}, Delta()),
        (None, Delta()),
        (
            {"tool_calls": [{"index": 1} | CALL]},
            Delta(tool_calls=[ToolCallDelta(1, "c1", "function", FunctionDelta("f", '{"a":1}'))]),
        ),
        (
            {"tool_calls": [{"index": 1, "id": "", "function": {"name": None, "arguments": '"}'}}]},
            Delta(tool_calls=[ToolCallDelta(1, function=FunctionDelta(arguments='"}'))]),
        ),
        (
            {"tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
            Delta(tool_calls=[ToolCallDelta(0, "call_0", "function", FunctionDelta("f", ""))]),
        ),
    ],
)
def test_deltas_are_heard_in_every_form(delta: object, heard: Delta) -> None:
    """A chunk adds what it has, and null adds nothing."""
    assert chunk({"delta": delta}).choices[0].delta == heard


@pytest.mark.parametrize("body", [b'{"choices":[],"usage":null}', b'{"choices":null}', b'{"choices":[],"x":1}'])
def test_a_chunk_without_choices_adds_nothing(body: bytes) -> None:
    """Some servers begin with one, some end with one."""
    assert (wire.decode_chunk(body).choices, wire.decode_chunk(body).usage) == ([], UNSET)


def test_a_chunk_of_usage_alone_is_heard() -> None:
    """Its choices may be missing altogether."""
    assert wire.decode_chunk(msgspec.json.encode({"usage": USAGE})).usage == Usage(3, 2, 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"error":{"message":"x"}}',
        b'{"error":{"message":"x"},"choices":[]}',
        b'{"object":"error","message":"x"}',
        b'{"choices":"a cat"}',
        b'{"choices":[{"index":0,"message":{"content":{}},"delta":{"content":{}}}]}',
    ],
)
def test_what_is_no_answer_is_a_fault(body: bytes) -> None:
    """An error is never taken for an empty answer."""
    for decode in (wire.decode_completion, wire.decode_chunk):
        with pytest.raises(msgspec.DecodeError):
            decode(body)


def test_an_answer_without_choices_is_none() -> None:
    """Nothing was said."""
    with pytest.raises(msgspec.DecodeError):
        wire.decode_completion(b'{"choices":[],"usage":null}')
