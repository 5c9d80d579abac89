"""The decoder that a GPU runs from recordings, run here without them: the same work on the same memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines.blip import decoding
from engines.blip.decoding import RecordedDecoder
from engines.blip.job import Job, Sampling
from engines.blip.model import BlipModel
from tests.engines.blip import tiny
from tests.engines.blip.test_model import CPU, LIMIT, jobs_of, made, never

MANY = range(8)


@pytest.fixture(params=["float32", "bfloat16"])
def pair(request: pytest.FixtureRequest, checkpoint: Path) -> tuple[BlipModel, BlipModel]:
    """The model as a processor decodes it, and as a GPU does."""
    one, other = (BlipModel(checkpoint, device=CPU, dtype=getattr(torch, request.param)) for _ in range(2))
    other._recorded = RecordedDecoder(other._model)
    return one, other


@pytest.fixture
def recorded(checkpoint: Path) -> BlipModel:
    """The model as a GPU decodes it, in float32."""
    model = BlipModel(checkpoint, device=CPU, dtype=torch.float32)
    model._recorded = RecordedDecoder(model._model)
    return model


@pytest.mark.parametrize("prefix", [None, "a photo of"])
@pytest.mark.parametrize("seeds", [(3,), (0, 1, 2), tuple(MANY)], ids=str)
def test_both_decoders_make_the_same_tokens(
    pair: tuple[BlipModel, BlipModel], seeds: Sequence[int], prefix: str | None
) -> None:
    """Alone, in a batch that is no power of two and in one that is, whose rows end one after the other."""
    expected, ids = (made(model.captions(jobs_of(model, seeds, prefix), never)) for model in pair)
    assert ids == expected


def test_every_position_can_be_used(pair: tuple[BlipModel, BlipModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """A caption goes on from one recording to the next, up to the last position."""
    monkeypatch.setattr(decoding, "SHORTEST", 4)
    prompt = pair[0].prompt_ids("a photo of")
    room = tiny.POSITIONS - len(prompt)
    expected, ids = (made(model.captions(jobs_of(model, (2, 3), "a photo of", room), never)) for model in pair)
    assert ids == expected
    assert max(map(len, ids.values())) == room


def test_a_batch_hears_nothing_of_the_one_before(recorded: BlipModel, model: BlipModel) -> None:
    """In whatever order larger, smaller and unfinished ones come, all on the same memory."""
    for seeds in ((0,), tuple(MANY), (1, 2), (4, 5, 6), (7,)):
        steps = recorded.captions(jobs_of(recorded, (2, 7, 1), None), never)
        next(steps)
        steps.close()
        ids = made(recorded.captions(jobs_of(recorded, seeds, None), never))
        assert ids == made(model.captions(jobs_of(model, seeds, None), never))


def test_numbers_that_are_none_spoil_their_own_batch_alone(recorded: BlipModel, model: BlipModel) -> None:
    """As float16 may come to: what is masked has no weight, but nothing times not-a-number is not a number either."""
    (job,) = jobs_of(recorded, (1,), None)
    made(recorded.captions([Job(np.full_like(job.pixels, np.nan), job.prompt, LIMIT)], never))

    ids = made(recorded.captions([job], never))
    assert ids == made(model.captions([job], never))


def test_choices_of_one_picture_and_rows_that_leave(recorded: BlipModel, model: BlipModel) -> None:
    """Each row attends to its own picture, also when those before it have gone."""

    def tokens(one: BlipModel) -> dict[tuple[int, int], list[int]]:
        (first, second, third) = jobs_of(one, (1, 2, 7), None)
        many = Job(second.pixels, second.prompt, LIMIT, Sampling(1.0, seed=4), choices=3)
        return made(one.captions([first, many, third], lambda job: job == 0))

    assert tokens(recorded) == tokens(model)
    assert len(tokens(recorded)[0, 0]) == 1


def test_what_was_worked_out_is_used_again(recorded: BlipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One recording for each power of two of rows, and anew only when there have to be more places."""
    made_for: list[tuple[int, int]] = []
    work = RecordedDecoder._work

    def noted(decoder: RecordedDecoder, rows: int, positions: int) -> torch.Tensor:
        made_for.append((rows, positions))
        return work(decoder, rows, positions)

    monkeypatch.setattr(RecordedDecoder, "_work", noted)
    for count in (1, 3, 4, 2, 1, 5, 3):
        made(recorded.captions(jobs_of(recorded, range(count), None, limit=2), never))
    decoder: Any = recorded._recorded
    assert [rows for rows, _ in made_for] == [1, 1, 4, 4, 4, 4, 2, 2, 1, 1, 8, 8, 4, 4]
    assert {rows for rows, _ in decoder._recordings} == {8, 4}


def test_a_processor_decodes_without_recordings(model: BlipModel) -> None:
    """Memory for every position and places for rows that have ended would only cost it time."""
    assert model._recorded is None


def test_the_memory_is_as_large_as_the_checkpoint_has_positions(recorded: BlipModel) -> None:
    """Keys and values of so many rows, for each of the decoder's layers, heads and positions, and for the pictures."""
    made(recorded.captions(jobs_of(recorded, range(3), None, limit=1), never))
    config = decoding.text_config(recorded._model)
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    decoder: Any = recorded._recorded
    assert decoder._words.shape == (config.num_hidden_layers, 2, 4, heads, tiny.POSITIONS, width)
    assert decoder._pictures.shape == (config.num_hidden_layers, 2, 4, heads, tiny.IMAGE_TOKENS, width)
