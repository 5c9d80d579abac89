"""From tokens to text: what is streamed is never taken back, and nothing else is said than at the end."""

import itertools
import random

import pytest

from engines.blip.text import Writer, certain, join, without_artefact

NASTY = ["a", "n", "'", "t", "##t", "s", ".", "##s"]


def write(tokens: str, prefix: str = "", stops: tuple[str, ...] = (), *, keep_artefacts: bool = True) -> list[str]:
    """Feed tokens to a writer; what each adds, and what the end adds."""
    writer = Writer(prefix=prefix, stops=stops, keep_artefacts=keep_artefacts)
    return [writer.add(token) for token in tokens.split()] + [writer.finish()]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("a cat", "a cat"),
        ("a walk ##ing cat", "a walking cat"),
        ("a cat , a dog .", "a cat, a dog."),
        ("a man ' s hat", "a man's hat"),
        ("it does n ' t", "it doesn't"),
        ("a t - shirt", "a t - shirt"),
        ("##s here", "s here"),
    ],
)
def test_tokens_become_text(tokens: str, text: str) -> None:
    """Pieces are joined, punctuation is drawn to its word, contractions are closed."""
    assert join(tokens.split()) == text


def test_what_is_certain_never_changes() -> None:
    """Whatever comes next, what was given out before is how the whole begins: all short texts of nasty tokens."""
    for tokens in itertools.product(NASTY, repeat=5):
        whole = join(tokens)
        for end in range(len(tokens)):
            assert whole.startswith(certain(join(tokens[:end]))), (tokens, end)


@pytest.mark.parametrize("keep_artefacts", [True, False])
def test_the_pieces_make_the_whole(keep_artefacts: bool) -> None:
    """Streamed pieces together are the text that a look at all tokens gives."""
    rng = random.Random(3)
    for _ in range(2000):
        tokens = rng.choices([*NASTY, "arafed", "araffe", "an", "there", "is", "orange", "man"], k=rng.randint(1, 9))
        whole = join(tokens)
        expected = whole if keep_artefacts else without_artefact(whole)
        assert "".join(write(" ".join(tokens), keep_artefacts=keep_artefacts)) == expected, tokens


def test_the_last_word_is_held_back() -> None:
    """A word is given out when it cannot grow any more."""
    assert write("a walk ##ing cat") == ["", "a", "", " walking", " cat"]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("arafed man in a hat", "man in a hat"),
        ("araffe standing in grass", "standing in grass"),
        ("an arafed man", "a man"),
        ("a arafed orange cat", "an orange cat"),
        ("there is a arafed dog", "there is a dog"),
        ("there is an araffe with horns", "there is a with horns"),
        ("there are araffes in a field", "there are in a field"),
        ("arafed araffe man", "man"),
        ("a arafed uniform", "a uniform"),
        ("a arafed hour glass", "an hour glass"),
        ("arafed", "arafed"),
        ("a cat and an arafed dog", "a cat and an arafed dog"),
        ("a giraffe", "a giraffe"),
        ("an cat", "an cat"),
        ("there is a cat", "there is a cat"),
        ("", ""),
    ],
)
def test_the_clean_up_removes_a_leading_arafed_and_nothing_else(raw: str, clean: str) -> None:
    """The published checkpoint's odd word goes and its article is mended; every other caption stays as it is."""
    assert without_artefact(raw) == clean
    assert "".join(write(raw, keep_artefacts=False)) == clean
    assert "".join(write(raw, keep_artefacts=True)) == raw


def test_a_beginning_is_held_back_while_it_may_be_cleaned() -> None:
    """Nothing of "there is a" leaves before the word after it is known."""
    assert write("there is a arafed dog runs by", keep_artefacts=False) == [
        "",
        "",
        "",
        "",
        "",
        "there is a dog",
        " runs",
        " by",
    ]


@pytest.mark.parametrize(
    ("tokens", "stops", "text", "stopped"),
    [
        ("a cat on a mat", (" on",), "a cat", True),
        ("a cat on a mat", ("on",), "a cat", True),
        ("a cat on a mat", ("on a m",), "a cat", True),
        ("a cat on a mat", ("on the",), "a cat on a mat", False),
        ("a cat on a mat", ("mat",), "a cat on a", True),
        ("a cat on a mat", ("mat", "cat"), "a", True),
        ("a cat on a mat", ("a",), "", True),
        ("a cat on a mat", ("mats",), "a cat on a mat", False),
        ("a walk ##ing cat", ("walking",), "a", True),
        ("a cat .", (".",), "a cat", True),
    ],
)
def test_text_ends_before_a_stop_sequence(tokens: str, stops: tuple[str, ...], text: str, stopped: bool) -> None:
    """The stop sequence is not part of the answer, wherever tokens cut it."""
    writer = Writer(stops=stops)
    pieces = [writer.add(token) for token in tokens.split()]
    pieces.append(writer.finish())
    assert "".join(pieces) == text
    assert writer.stopped is stopped


def test_no_part_of_a_stop_sequence_is_streamed() -> None:
    """What may become a stop sequence waits until it is known to be none."""
    assert write("a cat on a mat by", stops=("cat on the",)) == ["", "a", "", "", " cat on a", " mat", " by"]


@pytest.mark.parametrize(
    ("tokens", "whole"),
    [
        ("cat here", "A Photo of cat here"),
        ("##ten cat", "A Photo often cat"),
        (", a cat", "A Photo of, a cat"),
        ("", "A Photo of"),
    ],
)
def test_an_echoed_prefix_is_spelled_as_it_was_given(tokens: str, whole: str) -> None:
    """The caption goes on from the prefix, which keeps the client's capitals."""
    assert "".join(write(tokens, prefix="A Photo of")) == whole


def test_a_stop_sequence_in_the_prefix_does_not_stop() -> None:
    """Only the model's own words can."""
    assert "".join(write("a cat", prefix="A photo of", stops=("photo", "f a"))) == "A photo of a cat"
