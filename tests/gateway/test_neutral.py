"""Special tokens in clients' words are plain text to every tokenizer."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers

from gateway import prompts, wire
from gateway.neutral import KNOWN, WORD_JOINER, Neutraliser
from gateway.wire import CalledFunction, ChatRequest, Function, ImageURL, Message, PicturePart, TextPart, Tool, ToolCall

NEUTRALISER = Neutraliser(["<|my own|>", "⟦pic⟧"])
SPELLINGS = (
    *KNOWN,
    *("<|vision_start|>", "<|image_pad|>", "<|im_end|>", "<|begin_of_image|>", "<|reserved_special_token_17|>"),
    *("<|turn>", "<turn|>", "<unused42>", "<loc0012>", "<extra_id_3>", "<row_1_col_2>", "<\uff5cUser\uff5c>"),
    *("<\uff5cbegin▁of▁sentence\uff5c>", "<|my own|>", "⟦pic⟧"),
)
pieces = st.sampled_from(
    [*SPELLINGS, *"<>|[]/ \n", "\uff1c", "\uff5c", "s", "/s", "bos", "INST", "im", WORD_JOINER, "\u0338"]
)
texts = st.lists(st.one_of(pieces, st.text(max_size=3))).map("".join)


def spellings_in(text: str) -> list[str]:
    """The special tokens that the strictest and the most normalising of tokenizers would find."""
    readings = [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFKC", "NFKD"))]
    return [spelling for spelling in SPELLINGS for reading in readings if spelling in reading]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_known_spelling_is_broken_behind_its_first_character(spelling: str) -> None:
    """One character that nobody sees, and nothing else, is added."""
    broken = f"{spelling[0]}{WORD_JOINER}{spelling[1:]}"

    assert NEUTRALISER.text(f"a {spelling}{spelling} b") == f"a {broken}{broken} b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a < b > c",
        "<Bos> <START_OF_TURN> <p>words</p> <im g>",
        "x |> f <| y",
        "[1, 2] [INS] [inst]",
        "一只猫<div class='s'>",
        "<think>so</think>",
        *(preset.instruction for preset in prompts.load().values()),
    ],
)
def test_what_is_no_special_token_stays_byte_for_byte(text: str) -> None:
    """Another case, other brackets, HTML, code and our own presets are left alone."""
    assert NEUTRALISER.text(text) == text
    assert NEUTRALISER.json(json.dumps(text)) == json.dumps(text)


@given(texts)
def test_no_special_token_is_left_in_any_reading(text: str) -> None:
    """Neither in the text nor in what Unicode's normal forms make of it; and once is enough."""
    plain = NEUTRALISER.text(text)

    assert spellings_in(plain) == []
    assert NEUTRALISER.text(plain) == plain
    assert plain.replace(WORD_JOINER, "") == text.replace(WORD_JOINER, "")


@given(st.lists(texts, max_size=4), st.booleans())
def test_no_special_token_comes_together_from_parts(parts: list[str], trims: bool) -> None:
    """Parts that a template sets side by side, as they are or trimmed, spell nothing either."""
    plain = NEUTRALISER.side_by_side(parts)

    assert spellings_in("".join(part.strip() for part in plain) if trims else "".join(plain)) == []
    assert NEUTRALISER.side_by_side(plain) == plain


@pytest.mark.parametrize(
    "parts",
    [
        ["<start_of_", "image>"],
        ["a <start_of_ ", "", "\n image> b"],
        ["  x <", "b", "o", "s", ">"],
        ["<bos", "> <bos", ">"],
    ],
)
def test_a_token_in_pieces_is_broken_behind_its_first_character(parts: list[str]) -> None:
    """Where it begins, and nowhere else."""
    plain = NEUTRALISER.side_by_side(parts)

    assert plain == [part.replace("<", f"<{WORD_JOINER}") for part in parts]


@given(st.dictionaries(texts, st.one_of(texts, st.lists(texts, max_size=2)), max_size=3), st.booleans())
def test_json_means_the_same_without_special_tokens(value: dict[str, object], escapes: bool) -> None:
    """A call's arguments are still the same object, whatever was escaped in them."""
    plain = json.loads(NEUTRALISER.json(json.dumps(value, ensure_ascii=escapes)))

    assert spellings_in(json.dumps(plain, ensure_ascii=False).replace('\\"', '"')) == []
    assert _without_joiners(plain) == _without_joiners(value)


def _without_joiners(value: object) -> object:
    return json.loads(json.dumps(value, ensure_ascii=False).replace(WORD_JOINER, ""))


@pytest.mark.parametrize(
    "arguments",
    ['{"a":"\\u003cbos\\u003e"}', '{"a":"<\\/s>"}', '{"a":"<|\\u0022|>"}', '{"\\u003Cbos>":1}', '{"a": "<bos>'],
)
def test_escapes_hide_no_special_token(arguments: str) -> None:
    """An engine decodes a call's arguments before its template writes them into the prompt."""
    plain = NEUTRALISER.json(arguments)

    assert WORD_JOINER in plain
    assert spellings_in(plain.replace('\\"', '"')) == []


def test_arguments_that_escape_a_backslash_keep_it() -> None:
    """`\\\\u003c` is a backslash and a `u`; and what needs no change keeps its own form."""
    assert NEUTRALISER.json('{"a":"\\\\u003cbos>", "b" : "\\u00fc"}') == '{"a":"\\\\u003cbos>", "b" : "\\u00fc"}'


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFKC(), normalizers.NFKD()])
def test_a_real_tokenizer_finds_none(normalizer: normalizers.Normalizer | None) -> None:
    """With the special tokens of every family, normalised before or after they are looked for."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_tokens([AddedToken(token, normalized=at % 2 == 0) for at, token in enumerate(SPELLINGS)])
    hostile = " ".join(SPELLINGS) + "\uff1cbos\uff1e <\uff5cimage\uff5c>"

    assert len({id_ for id_ in tokenizer.encode(hostile).ids if id_}) == len(SPELLINGS)
    assert set(tokenizer.encode(NEUTRALISER.text(hostile)).ids) == {0}


def test_every_text_of_a_request_is_made_plain() -> None:
    """Words of all roles, names, calls, results and tools; pictures stay, and so does the schema of the answer."""
    bad = "a <bos>"
    schema = wire.JsonSchema("s", {"enum": [bad]}, description=bad)
    messages = [
        Message("system", [TextPart(bad)]),
        Message("user", [TextPart("<start_of_"), TextPart("image> b"), PicturePart(ImageURL(bad))], name=bad),
        Message("assistant", tool_calls=[ToolCall(bad, CalledFunction(bad, '{"<s>": "<\\/s>"}'))]),
        Message("tool", [TextPart(bad)], tool_call_id=bad),
    ]
    tools = [Tool(Function("f", bad, {"properties": {bad: {"description": bad, "enum": [bad, 1]}}}))]
    asked = ChatRequest(
        model="m", messages=messages, tools=tools, response_format=wire.ResponseFormat("json_schema", schema)
    )

    plain = NEUTRALISER.request(asked)

    assert plain.messages[1].content[2] == asked.messages[1].content[2]
    assert plain.response_format is not None
    assert plain.response_format.json_schema is not None
    assert plain.response_format.json_schema.schema == schema.schema
    rest = wire.encode([plain.messages, plain.tools, plain.response_format.json_schema.description]).decode()
    assert spellings_in(rest.replace('"url":"a <bos>"', "")) == []
    assert NEUTRALISER.request(plain) == plain


def test_hostile_texts_take_linear_time() -> None:
    """A megabyte of tokens, of openings or of characters that normalise is done in a moment."""
    for piece in ("<s>", "<", "<|a", "\uff1cbos\uff1e", "<unused1", "[[INST]"):
        text = piece * (2**20 // len(piece))
        assert len(NEUTRALISER.side_by_side([text, text])) == 2
