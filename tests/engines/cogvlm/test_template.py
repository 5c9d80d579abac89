"""The chat templates write what CogVLM's authors write, to the token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engines.cogvlm.prepare import TEMPLATES

ENGINE = Path(__file__).parents[3] / "engines/cogvlm"
OPENINGS = {"cogvlm": "<s> ", "cogvlm2": "<|begin_of_text|>"}
PICTURE = {"type": "image"}


def published(history: Sequence[tuple[str, str]], question: str, answer: str = "Answer:") -> str:
    """The authors' form: earlier questions with their replies, a line each, and the question."""
    lines = [f"Question: {asked} {answer} {reply}" for asked, reply in history]
    return "\n".join([*lines, f"Question: {question} {answer}"])


def text(words: str) -> dict[str, str]:
    """A text part."""
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": list(parts)}


def assistant(words: str) -> dict[str, Any]:
    """A reply."""
    return {"role": "assistant", "content": [text(words)]}


def system(words: str) -> dict[str, Any]:
    """A system message."""
    return {"role": "system", "content": [text(words)]}


DIALOGUES = {
    "a question": ([user(PICTURE, text("What is this?"))], published([], "What is this?")),
    "text alone": ([user(text("What is red?"))], published([], "What is red?")),
    "a picture alone": ([user(PICTURE)], published([], "")),
    "content as a string": ([{"role": "user", "content": " What is this?\n"}], published([], "What is this?")),
    "text around a picture": (
        [user(text("Look: "), PICTURE, text(" what is it?"))],
        published([], "Look: what is it?"),
    ),
    "several turns": (
        [user(PICTURE, text("One?")), assistant(" A dog. "), user(text("Two?")), assistant("Red."), user(text("3?"))],
        published([("One?", "A dog."), ("Two?", "Red.")], "3?"),
    ),
    "lines within a question": ([user(text("One\n two?"))], published([], "One\n two?")),
    "a system message": ([system("Be brief."), user(text("What?"))], published([], "Be brief. What?")),
    "a system message later": (
        [user(text("One?")), assistant("A dog."), system("Be brief."), user(text("Two?"))],
        published([("One?", "A dog.")], "Be brief. Two?"),
    ),
    "a system message alone": ([system("Describe it.")], published([], "Describe it.")),
    "two questions": ([user(text("One?")), user(PICTURE, text("Two?"))], published([], "One? Two?")),
    "a reply first": ([assistant("Hello."), user(text("One?"))], published([("", "Hello.")], "One?")),
    "a reply last": ([user(text("One?")), assistant("A dog.")], published([("One?", "A dog.")], "")),
    "a reply without words": (
        [user(text("One?")), {"role": "assistant", "content": None}, user(text("Two?"))],
        published([("One?", "")], "Two?"),
    ),
}


@pytest.fixture(params=["cogvlm", "cogvlm2"])
def generation(request: pytest.FixtureRequest) -> str:
    """Each generation in turn."""
    return str(request.param)


@pytest.fixture
def tokenizer(generation: str, prepared: dict[str, Path]) -> PreTrainedTokenizerBase:
    """Its tokenizer as prepared."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(prepared[generation])
    return loaded


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_text_is_the_published_form(generation: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Behind the token that begins it; pictures leave no trace, for the engine puts them in."""
    messages, expected = DIALOGUES[name]

    assert tokenizer.apply_chat_template(messages, tokenize=False) == OPENINGS[generation] + expected


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_tokens_are_those_of_the_published_text(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """The authors encode the text alone and put the first token before it."""
    messages, expected = DIALOGUES[name]
    alone = tokenizer.encode(expected, add_special_tokens=False)

    made = tokenizer.encode(str(tokenizer.apply_chat_template(messages, tokenize=False)), add_special_tokens=False)

    assert made == [tokenizer.bos_token_id, *alone]


def test_without_its_space_the_first_words_would_be_others(prepared: dict[str, Path]) -> None:
    """Why the first generation's template has a space there."""
    tokenizer = AutoTokenizer.from_pretrained(prepared["cogvlm"])

    with_space, without = (
        tokenizer.encode(f"<s>{space}Question: What?", add_special_tokens=False) for space in (" ", "")
    )

    assert with_space != without


def test_short_answers_have_a_form_of_their_own(generation: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """In earlier turns as well; any other form is the usual one."""
    messages, expected = DIALOGUES["several turns"]

    short, chat = (tokenizer.apply_chat_template(messages, tokenize=False, form=form) for form in ("vqa", "chat"))

    replies = [("One?", "A dog."), ("Two?", "Red.")]
    assert short == OPENINGS[generation] + published(replies, "3?", "Short answer:")
    assert chat == OPENINGS[generation] + expected


def test_the_templates_differ_in_their_opening_alone() -> None:
    """What is mended in one is mended in both."""
    first, second = ((ENGINE / template).read_text().partition("{{- bos_token")[2] for template in TEMPLATES.values())

    assert first.partition("-}}")[2] == second.partition("-}}")[2]
