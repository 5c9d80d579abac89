"""Requests that vLLM and the reference both answer, and what is different in their answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from tests.engines.blip.tiny import picture
from tests.engines.cogvlm.reference import Reference, chat, vqa
from tests.engines.cogvlm.rounds import Job, Told
from tests.pictures import encoded

TOLERANCE = 1e-4  # of a log-probability: some times what another order of adding up float32 makes of it
TOKENS = 24
QUESTIONS = (
    chat("What is in the photo?"),
    chat("And the cat?", history=[("Is it a dog?", "a small red dog")]),
    vqa("Generate a caption for this image."),
)


@dataclass(frozen=True)
class Case:
    """A text, perhaps with a picture."""

    text: str
    picture: Image.Image | None
    max_tokens: int = TOKENS


@dataclass(frozen=True)
class Expected:
    """The reference's answer, with the whole prompt before it, the picture's tokens included."""

    prompt: list[int]
    ids: list[int]
    logprobs: list[float]


# Wide and tall pictures, no two alike, each question with three of them and once without.
PICTURES = [picture(seed, width=60 + 7 * seed, height=90 - 5 * seed) for seed in range(9)]
WITH_PICTURE = [Case(QUESTIONS[number % 3], image) for number, image in enumerate(PICTURES)]
CASES = [*WITH_PICTURE, *(Case(text, None) for text in QUESTIONS)]


def as_text(case: Case) -> Job:
    """Ask for a case by its text, which vLLM tokenises."""
    return Job(case.text, None if case.picture is None else encoded(case.picture), case.max_tokens)


def as_ids(reference: Reference, case: Case) -> Job:
    """Ask for a case by the ids of its text."""
    return Job(reference.prompt(case.text), as_text(case).picture, case.max_tokens)


def expected(reference: Reference, case: Case) -> Expected:
    """Answer a case with the reference."""
    bos, *text = reference.prompt(case.text)
    answer = reference.answer([bos, *text], case.picture, case.max_tokens)
    placeholders = [] if case.picture is None else [reference.config["pad_token_id"]] * len(reference.see(case.picture))
    return Expected([bos, *placeholders, *text], answer.ids, answer.logprobs)


def differences(told: Sequence[Told], expected: Sequence[Expected]) -> list[str]:
    """Say of each case whose answer is another what is; there is nothing to say of those that are the same."""
    return [
        f"case {number}: {'; '.join(found)}"
        for number, (one, other) in enumerate(zip(told, expected, strict=True))
        if (found := list(_differences(one, other)))
    ]


def _differences(told: Told, expected: Expected) -> Iterator[str]:
    if told.prompt != expected.prompt:
        yield f"its prompt is {told.prompt}, not {expected.prompt}"
    if told.ids != expected.ids:
        yield f"its tokens are {told.ids}, not {expected.ids}"
    else:
        off = max(abs(one - other) for one, other in zip(told.logprobs, expected.logprobs, strict=True))
        if off > TOLERANCE:
            yield f"its log-probabilities are up to {off:.1e} off"
