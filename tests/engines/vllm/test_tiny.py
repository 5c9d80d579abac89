"""The tiny checkpoints are worth comparing answers with: the same each time, lively, dependent on all that is asked."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from tests.engines.blip.tiny import picture
from tests.engines.vllm.reference import Answer, Reference, Turn
from tests.engines.vllm.tiny import FAMILIES

LIMIT = 16
PICTURES = [picture(seed) for seed in range(6)]
# Names as the published checkpoints have them, one from each of a checkpoint's parts.
PUBLISHED = {
    "gemma3": {
        "language_model.model.layers.1.self_attn.q_norm.weight",
        "vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.bias",
        "multi_modal_projector.mm_input_projection_weight",
    },
    "internvl": {
        "language_model.model.layers.1.self_attn.q_proj.bias",
        "language_model.lm_head.weight",
        "vision_tower.encoder.layer.1.attention.projection_layer.weight",
        "multi_modal_projector.linear_1.weight",
    },
    "blip2": {
        "language_model.model.decoder.layers.1.fc1.weight",
        "vision_model.encoder.layers.1.self_attn.qkv.weight",
        "qformer.encoder.layer.0.crossattention.attention.key.weight",
        "language_projection.weight",
        "query_tokens",
    },
}


def about(*parts: str | Image.Image) -> Sequence[Turn]:
    """A dialogue of one turn."""
    return [Turn("user", parts)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the family's checkpoint."""
    return FAMILIES[family](tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    """Transformers, with that checkpoint."""
    return Reference(checkpoint)


@pytest.fixture(scope="module")
def answers(reference: Reference) -> list[Answer]:
    """What the model says of six pictures."""
    return [reference.answer(about("What is in", image, "the photo?"), LIMIT) for image in PICTURES]


def test_a_checkpoint_is_the_same_each_time(family: str, checkpoint: Path, tmp_path: Path) -> None:
    """Whoever makes it, and whenever: file for file, byte for byte."""
    FAMILIES[family](tmp_path)

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        file.name: file.read_bytes() for file in checkpoint.iterdir()
    }


def test_weights_have_the_published_names(family: str, checkpoint: Path) -> None:
    """A loader meets the names that it meets in the published checkpoints, and no others of Transformers."""
    with safe_open(checkpoint / "model.safetensors", "pt") as weights:
        names = set(weights.keys())

    assert names >= PUBLISHED[family]
    assert not [name for name in names if name.startswith("model.")]


def test_pictures_change_the_answer(answers: list[Answer]) -> None:
    """Different pictures get different answers, so that one that was mixed up or lost would be noticed."""
    assert len({answer.text for answer in answers}) == len(PICTURES)


def test_words_change_the_answer(reference: Reference, answers: list[Answer]) -> None:
    """What is asked matters, and whether it is asked before or after the picture."""
    around, after = answers[0], reference.answer(about(PICTURES[0], "Is it a small red dog?"), LIMIT)

    assert around.ids != after.ids
    assert reference.answer(about("Is it a small red dog?"), LIMIT).ids != after.ids


def test_answers_are_lively(answers: list[Answer]) -> None:
    """None repeats a single word, so that a token lost or doubled would be noticed; all are made of whole words."""
    assert all(len(set(answer.ids)) > 2 for answer in answers)
    assert all(answer.text.isascii() and answer.text.startswith(" ") for answer in answers)


def test_no_answer_hangs_by_a_thread(answers: list[Answer]) -> None:
    """At each token the best beats the next by far more than vLLM's float32 differs from Transformers' own (1e-4)."""
    assert min(answer.margin for answer in answers) > 0.002


def test_earlier_turns_change_the_answer(reference: Reference, answers: list[Answer]) -> None:
    """A dialogue is more than its last turn."""
    turns = [*about("What is in", PICTURES[0], "the photo?"), Turn("assistant", ("a dog",)), *about("And the cat?")]

    assert reference.answer(turns, LIMIT).ids != reference.answer(turns[2:], LIMIT).ids != answers[0].ids


@pytest.mark.parametrize("family", ["gemma3", "internvl"], scope="module")
def test_two_pictures_are_told_apart(reference: Reference) -> None:
    """Their order matters."""
    first, second = PICTURES[:2]

    one_way = reference.answer(about("First", first, "then", second, "what?"), LIMIT)
    other_way = reference.answer(about("First", second, "then", first, "what?"), LIMIT)

    assert one_way.ids != other_way.ids
