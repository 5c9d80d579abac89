"""The decode loop makes the tokens that Transformers' own `generate` makes, and keeps requests apart."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from engines.blip.job import Job, Sampling, Token
from engines.blip.model import BlipModel, choose_device, choose_dtype
from engines.blip.text import join
from engines.loading import LoadError
from tests.engines.blip import tiny

LIMIT = 20
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def both(request: pytest.FixtureRequest, checkpoint: Path) -> "tuple[BlipModel, Any]":
    """Our model and Transformers' own, of the same checkpoint and type."""
    dtype = getattr(torch, request.param)
    theirs: Any = transformers.BlipForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype)
    theirs.eval()
    return BlipModel(checkpoint, device=CPU, dtype=dtype), theirs


@pytest.fixture(scope="module")
def processor(checkpoint: Path) -> Any:
    """Transformers' own processor, as the model card uses it."""
    processor_class: Any = transformers.BlipProcessor
    return processor_class(
        transformers.BlipImageProcessorPil.from_pretrained(checkpoint),
        transformers.AutoTokenizer.from_pretrained(checkpoint),
    )


def never(_: int) -> bool:
    """Nobody leaves."""
    return False


def made(steps: Iterator[Sequence[tuple[int, Token]]]) -> dict[tuple[int, int], list[int]]:
    """The tokens of every choice of every job."""
    ids: dict[tuple[int, int], list[int]] = {}
    for step in steps:
        for job, token in step:
            ids.setdefault((job, token.choice), []).append(token.id)
    return ids


def generated(theirs: Any, processor: Any, seeds: Sequence[int], prefix: str | None, limit: int) -> list[list[int]]:
    """The new tokens that `generate` makes for the pictures, without what pads a row that has ended."""
    text = None if prefix is None else [prefix] * len(seeds)
    inputs = processor(images=[tiny.picture(seed) for seed in seeds], text=text, return_tensors="pt")
    start = 1 if prefix is None else inputs["input_ids"].shape[1] - 1
    out = theirs.generate(**inputs, max_new_tokens=limit, do_sample=False)[:, start:].tolist()
    end = tiny.VOCABULARY.index("[SEP]")
    return [row[: row.index(end) + 1] if end in row else row for row in out]


def jobs_of(model: BlipModel, seeds: Sequence[int], prefix: str | None, limit: int = LIMIT) -> list[Job]:
    """The same pictures as jobs."""
    prompt = model.prompt_ids(prefix or "")
    return [Job(model.pixels(tiny.picture(seed)), prompt, limit) for seed in seeds]


@pytest.mark.parametrize("prefix", [None, "a photo of", "A Photo of the  red"])
@pytest.mark.parametrize("seeds", [(0,), (3,), (5,), (0, 1, 2, 3, 4, 5, 6, 7)], ids=str)
def test_tokens_equal_generate(
    both: "tuple[BlipModel, Any]", processor: Any, seeds: tuple[int, ...], prefix: str | None
) -> None:
    """Alone and in a batch, with and without a prefix, in both types: token for token what `generate` makes."""
    ours, theirs = both
    ids = made(ours.captions(jobs_of(ours, seeds, prefix), never))
    expected = generated(theirs, processor, seeds, prefix, LIMIT)
    assert [ids[job, 0] for job in range(len(seeds))] == expected


def test_the_batch_of_the_test_above_ends_at_different_times(model: BlipModel) -> None:
    """The parity test means something: its rows differ, and leave the batch one after the other."""
    ids = made(model.captions(jobs_of(model, range(8), None), never))
    assert len({len(row) for row in ids.values()}) >= 4
    assert len({tuple(row) for row in ids.values()}) >= 6


def test_pixels_are_those_of_the_published_processor(model: BlipModel, processor: Any) -> None:
    """A picture is squashed to the checkpoint's size by Pillow, as the published captions' pictures were."""
    picture = tiny.picture(1, width=123, height=45)
    expected = processor(images=picture, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(model.pixels(picture), expected.astype(np.float32))
    assert model.pixels(picture).shape == (3, tiny.SIDE, tiny.SIDE)


@pytest.mark.parametrize("size", [(tiny.SIDE, tiny.SIDE), (640, 480), (1, 900), (7, 3)], ids=str)
def test_every_value_of_every_channel_is_the_published_one(
    model: BlipModel, processor: Any, size: tuple[int, int]
) -> None:
    """Bit for bit, of pictures that have all of them, larger and smaller than the model's."""
    levels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    levels.reshape(-1)[: 3 * 256] = np.arange(256).repeat(3)[: levels.size]
    picture = Image.fromarray(levels)
    expected = processor(images=picture, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(model.pixels(picture), expected.astype(np.float32))


def test_the_finish_says_why_a_row_ended(model: BlipModel) -> None:
    """The last token of a row, and no other, says "stop" at the end token or "length" at the limit."""
    short, long = jobs_of(model, (3, 2), None, limit=5)
    tokens = [pair for step in model.captions([short, long], never) for pair in step]
    finishes = {job: [token.finish for at, token in tokens if at == job] for job in (0, 1)}
    assert finishes[0] == [None, None, "stop"]
    assert finishes[1] == [None, None, None, None, "length"]


def test_a_row_whose_caller_has_gone_is_dropped(model: BlipModel) -> None:
    """The others go on, their tokens unchanged."""
    jobs = jobs_of(model, (1, 2, 7), None)
    alone = made(model.captions(jobs, never))
    steps = 0

    def gone(job: int) -> bool:
        return job == 1 and steps >= 3

    left: dict[int, int] = dict.fromkeys(range(3), 0)
    ids: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in model.captions(jobs, gone):
        steps += 1
        for job, token in step:
            left[job] += 1
            ids[job].append(token.id)
    assert left == {0: LIMIT, 1: 3, 2: LIMIT}
    assert ids[0] == alone[0, 0]
    assert ids[2] == alone[2, 0]


def test_the_vision_tower_sees_a_picture_once(model: BlipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several choices of one picture share what was seen."""
    seen: list[int] = []
    tower = model._model.vision_model.forward

    def forward(pixel_values: Any, **rest: Any) -> Any:
        seen.append(len(pixel_values))
        return tower(pixel_values, **rest)

    monkeypatch.setattr(model._model.vision_model, "forward", forward)
    (job,) = jobs_of(model, (1,), None)
    many = Job(job.pixels, job.prompt, 4, Sampling(1.0, seed=1), choices=3)
    assert len(made(model.captions([many, job], never))) == 4
    assert seen == [2]


@pytest.mark.parametrize(("room", "seen"), [(3, [8, 4, 2, 2, 4, 2, 2]), (8, [8])])
def test_a_batch_without_room_is_seen_in_halves(
    model: BlipModel, monkeypatch: pytest.MonkeyPatch, room: int, seen: list[int]
) -> None:
    """A GPU that has no memory for all pictures together captions them all the same."""
    expected = made(model.captions(jobs_of(model, range(8), None), never))
    counts = limited(model, monkeypatch, room)
    assert made(model.captions(jobs_of(model, range(8), None), never)) == expected
    assert counts == seen


def test_a_picture_without_room_fails(model: BlipModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error that says so."""
    limited(model, monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        made(model.captions(jobs_of(model, range(2), None), never))


def limited(model: BlipModel, monkeypatch: pytest.MonkeyPatch, room: int) -> list[int]:
    """Gives the vision tower room for so many pictures; how many it was asked to see, each time."""
    counts: list[int] = []
    tower = model._model.vision_model.forward

    def forward(pixel_values: Any, **rest: Any) -> Any:
        counts.append(len(pixel_values))
        if counts[-1] > room:
            raise torch.OutOfMemoryError
        return tower(pixel_values, **rest)

    monkeypatch.setattr(model._model.vision_model, "forward", forward)
    return counts


def sampled(model: BlipModel, seed: int | None, *, choices: int = 1, top_p: float = 1.0, picture: int = 1) -> Job:
    """A job that samples."""
    (job,) = jobs_of(model, (picture,), None)
    return Job(job.pixels, job.prompt, LIMIT, Sampling(1.0, top_p, seed), choices)


def test_a_seed_gives_the_same_words_whatever_else_is_in_the_batch(model: BlipModel) -> None:
    """Alone, beside others, at another place of the batch, as one of many choices: the seed decides."""
    alone = made(model.captions([sampled(model, 11)], never))[0, 0]
    mates = [*jobs_of(model, (2, 3), None), sampled(model, 5, picture=4), sampled(model, None, choices=2)]
    assert made(model.captions([*mates, sampled(model, 11)], never))[4, 0] == alone
    assert made(model.captions([sampled(model, 11), *mates], never))[0, 0] == alone
    many = made(model.captions([sampled(model, 10, choices=3), *mates], never))
    assert many[0, 1] == alone
    assert len({tuple(many[0, choice]) for choice in range(3)}) == 3


def test_no_seed_is_chance(model: BlipModel) -> None:
    """Without a seed, answers differ from one another."""
    jobs = [sampled(model, None) for _ in range(4)]
    assert len({tuple(row) for row in made(model.captions(jobs, never)).values()}) > 1


def test_a_top_p_of_zero_is_greedy(model: BlipModel) -> None:
    """The smallest nucleus is the likeliest token; the largest one is all of them."""
    greedy = made(model.captions(jobs_of(model, (1,), None), never))
    assert made(model.captions([sampled(model, 3, top_p=0.0)], never)) == greedy
    assert made(model.captions([sampled(model, 3, top_p=1.0)], never)) != greedy


@pytest.mark.parametrize("temperature", [5e-324, 1e-9, 2.0])
def test_every_temperature_makes_tokens(model: BlipModel, temperature: float) -> None:
    """The coldest sampling is greedy, not a division by zero."""
    (job,) = jobs_of(model, (1,), None)
    ids = made(model.captions([Job(job.pixels, job.prompt, 8, Sampling(temperature, seed=1))], never))[0, 0]
    greedy = made(model.captions([Job(job.pixels, job.prompt, 8)], never))[0, 0]
    assert (ids == greedy) is (temperature < 1)


def test_extreme_seeds_are_seeds(model: BlipModel) -> None:
    """The ends of the range that the wire allows, choices added."""
    for seed in (-(2**63), 2**63 - 1):
        assert len(made(model.captions([sampled(model, seed, choices=3)], never))) == 3


def test_the_prompt_is_what_generate_makes_of_it(model: BlipModel) -> None:
    """The decoder's own start token, then the prefix, without [CLS] and [SEP]."""
    start = tiny.VOCABULARY.index("[DEC]")
    assert model.prompt_ids("") == (start,)
    assert model.prompt_ids("A photo") == (start, tiny.VOCABULARY.index("a"), tiny.VOCABULARY.index("photo"))


def test_text_is_joined_as_the_tokenizer_does(model: BlipModel, processor: Any) -> None:
    """For captions that begin with a word, our text is Transformers' decoded text with its clean-up on."""
    words = [at for at, word in enumerate(tiny.VOCABULARY) if at >= len(tiny.SPECIAL)]
    draw: Callable[..., Any] = np.random.default_rng(5).choice
    for length in range(1, 12):
        for _ in range(60):
            ids = [tiny.VOCABULARY.index("cat"), *(int(one) for one in draw(words, length))]
            theirs = processor.tokenizer.decode(ids, clean_up_tokenization_spaces=True, skip_special_tokens=True)
            assert join([str(model.facts.vocabulary[one]) for one in ids]) == theirs


def test_facts_are_read_from_the_checkpoint(model: BlipModel) -> None:
    """What usage and limits are counted by."""
    facts = model.facts
    assert (facts.device, facts.dtype) == ("cpu", "float32")
    assert (facts.image_tokens, facts.positions) == (tiny.IMAGE_TOKENS, tiny.POSITIONS)
    assert facts.vocabulary[tiny.VOCABULARY.index("cat")] == "cat"
    assert facts.vocabulary[tiny.VOCABULARY.index("[SEP]")] is None


def test_the_longest_caption_fits(model: BlipModel) -> None:
    """The limit that fills every position is reached without an error."""
    prompt = model.prompt_ids("a photo of")
    room = tiny.POSITIONS - len(prompt)
    job = Job(model.pixels(tiny.picture(2)), prompt, room)
    assert len(made(model.captions([job], never))[0, 0]) <= room


@pytest.mark.parametrize(
    ("able", "dtype"), [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")]
)
def test_the_type_follows_the_processor(monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: str) -> None:
    """On a CPU, bfloat16 is chosen where it is computed in hardware."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert choose_dtype("auto", CPU) is getattr(torch, dtype)
    assert choose_dtype("float16", CPU) is torch.float16


def test_a_gpu_that_is_not_there_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" takes the CPU then, and "cuda" is an error that says what to do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(LoadError, match="set it to auto or cpu"):
        choose_device("cuda")


def test_a_gpu_that_is_lost_is_told_from_one_that_works(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, model: BlipModel
) -> None:
    """After an error that ends a GPU's work for a process, everything asked of it fails; a processor is never lost."""

    def lost(_: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    on_gpu = BlipModel(checkpoint, device=CPU, dtype=torch.float32)
    on_gpu._device = torch.device("cuda")
    assert not on_gpu.is_broken()
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    assert on_gpu.is_broken()
    assert not model.is_broken()


def test_a_gpu_is_set_up_for_every_size_of_batch(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the largest on, so that memory for it is there or missed at once; a processor captions one picture."""
    sizes: list[int] = []

    def captions(_: BlipModel, jobs: Sequence[Job], __: object) -> Iterator[Sequence[tuple[int, Token]]]:
        sizes.append(len(jobs))
        yield from ()

    monkeypatch.setattr(BlipModel, "captions", captions)
    ours = BlipModel(checkpoint, device=CPU, dtype=torch.float32)
    ours.warm_up(12)
    assert sizes == [1]
    ours._device = torch.device("cuda")
    ours.warm_up(12)
    assert sizes == [1, 12, 8, 4, 2, 1]
