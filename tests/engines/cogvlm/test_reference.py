"""The reference's rules on examples worked out by hand, and checkpoints that are worth comparing answers with."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor

from tests.engines.cogvlm import tiny
from tests.engines.cogvlm.cases import CASES, PICTURES, QUESTIONS, WITH_PICTURE
from tests.engines.cogvlm.reference import Answer, Reference, Rules, chat, layout, pixels, rotate, vqa
from tests.engines.cogvlm.tiny import Published


@pytest.fixture(scope="module", params=[make.__name__ for make in tiny.ALL])
def name(request: pytest.FixtureRequest) -> str:
    """Each checkpoint in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def reference(name: str, published: dict[str, Published]) -> Reference:
    """The reference with that checkpoint."""
    return Reference(published[name])


@pytest.fixture(scope="module")
def answers(reference: Reference) -> list[Answer]:
    """What it answers in all cases."""
    return [reference.answer(reference.prompt(case.text), case.picture, case.max_tokens) for case in CASES]


def test_layout_of_a_picture_and_two_words() -> None:
    """Tokens: bos, boi, three patches, eoi, two words."""
    vision, positions = layout(text=3, seen=5, rules=Rules())

    assert vision.tolist() == [False, True, True, True, True, False, False, False]
    assert positions.tolist() == [0, 1, 2, 2, 2, 3, 4, 5]


def test_layout_of_words_alone() -> None:
    """Every position is its own, and nothing is vision's."""
    vision, positions = layout(text=4, seen=0, rules=Rules())

    assert not vision.any()
    assert positions.tolist() == [0, 1, 2, 3]


def test_broken_layouts() -> None:
    """Each switch changes what it names."""
    shape = {"text": 2, "seen": 4}

    assert layout(**shape, rules=Rules(boi_is_vision=False))[0].tolist() == [False, False, True, True, False, False]
    assert layout(**shape, rules=Rules(eoi_is_vision=True))[0].tolist() == [False, True, True, True, True, False]
    assert layout(**shape, rules=Rules(patches_share_position=False))[1].tolist() == [0, 1, 2, 3, 4, 5]


def test_rotation_turns_halves_of_a_head() -> None:
    """Of four numbers the first turns with the third, by the position, and the second with the fourth, more slowly."""
    turned = rotate(torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]), torch.tensor([2]), base=100.0)

    cos, sin = torch.tensor([2.0, 0.2]).cos(), torch.tensor([2.0, 0.2]).sin()
    assert torch.allclose(turned[0, 0], torch.stack([cos[0], -sin[1], sin[0], cos[1]]))


def test_pixels_are_squashed_and_normalised() -> None:
    """A wide red picture fills the square, with CLIP's mean and deviation for each colour."""
    seen = pixels(Image.new("RGB", (90, 30), (255, 0, 0)), side=28)

    assert seen.shape == (3, 28, 28)
    assert torch.allclose(seen[:, 5, 9], torch.tensor([1.9303361, -1.7520971, -1.4802198]))


def test_prompts_have_the_published_forms() -> None:
    """Dialogue, and the short form."""
    assert chat("Why?", [("Who?", "a man"), ("", "on")]) == (
        "Question: Who? Answer: a man\nQuestion:  Answer: on\nQuestion: Why? Answer:"
    )
    assert vqa("Who?") == "Question: Who? Short answer:"


def test_vicuna_is_tokenised_as_sentencepiece_does(published: dict[str, Published]) -> None:
    """What Transformers makes of the published file is what the file means: a space before the first word."""
    tokenizer = published["cogvlm"].tokenizer
    assert tokenizer is not None
    pieces = SentencePieceProcessor(model_file=str(tokenizer / "tokenizer.model"))
    reference = Reference(published["cogvlm"])

    assert all(reference.prompt(text) == [1, *pieces.encode(text)] for text in [*QUESTIONS, chat("é 中 2 {}")])
    assert pieces.id_to_piece(reference.prompt(QUESTIONS[0])[1]) == "▁Question"


def test_a_checkpoint_is_the_same_each_time(name: str, published: dict[str, Published], tmp_path: Path) -> None:
    """Whoever makes it, and whenever: file for file, byte for byte."""
    again = next(make for make in tiny.ALL if make.__name__ == name)(tmp_path)

    assert _files(again) == _files(published[name])


def test_pictures_change_the_answer(answers: list[Answer]) -> None:
    """Different pictures get different answers, so that one that was mixed up or lost would be noticed."""
    about_pictures = [answer.text for answer in answers[: len(WITH_PICTURE)]]

    assert len(set(about_pictures)) == len(PICTURES)


def test_answers_are_lively(answers: list[Answer]) -> None:
    """None repeats a single word, so that a token lost or doubled would be noticed."""
    assert all(len(set(answer.ids)) > 2 for answer in answers)


def test_no_answer_hangs_by_a_thread(answers: list[Answer]) -> None:
    """At each token the best beats the next by far more than vLLM's float32 differs from the reference's (1e-4)."""
    assert min(answer.margin for answer in answers) > 0.002


def _files(published: Published) -> dict[str, bytes]:
    """Read a checkpoint's files, and those of its tokenizer."""
    folders = [published.checkpoint, published.tokenizer or published.checkpoint]
    return {file.name: file.read_bytes() for folder in folders for file in folder.iterdir()}
