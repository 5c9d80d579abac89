"""The demo checkpoint: small enough to ship, and right about pictures it has never been near."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from engines.demo.scenes import Scene, caption, draw, held_out

CHECKPOINT = Path(__file__).parents[2] / "engines" / "demo" / "checkpoint"
SCENES = held_out(100, seed=2026)
SIDE = 256


@pytest.fixture(scope="module")
def processor() -> BlipProcessor:
    """The processor, loaded by the folder alone as a published checkpoint's is."""
    processor: BlipProcessor
    processor = BlipProcessor.from_pretrained(CHECKPOINT, backend="pil")
    return processor


@pytest.fixture(scope="module")
def model() -> BlipForConditionalGeneration:
    """The model in single precision."""
    return load(torch.float32)


def load(dtype: torch.dtype) -> BlipForConditionalGeneration:
    """Load the model in a precision of choice."""
    model: BlipForConditionalGeneration
    model = BlipForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=dtype)
    return model


def captions(
    model: BlipForConditionalGeneration,
    processor: BlipProcessor,
    pictures: list[Image.Image],
    prefix: str | None = None,
) -> list[str]:
    """Caption pictures greedily with Transformers' own generate."""
    text = None if prefix is None else [prefix] * len(pictures)
    inputs = processor(images=pictures, text=text, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=40)
    texts: list[str] = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return texts


def count_right(said: list[str], scenes: list[Scene]) -> int:
    """Count the captions that are right to the letter."""
    return sum(text == caption(scene) for text, scene in zip(said, scenes, strict=True))


def encoded(picture: Image.Image, file_format: str) -> Image.Image:
    """Send a picture through a file format at quality 75, where it has one."""
    file = io.BytesIO()
    picture.save(file, format=file_format, quality=75)
    return Image.open(file)


def test_checkpoint_is_small_enough_to_ship() -> None:
    """All files together weigh at most 8 MB."""
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 8_000_000


def test_every_caption_survives_the_tokenizer(processor: BlipProcessor) -> None:
    """The vocabulary holds every word of the held-out captions, so any of them can be said."""
    tokens = processor.tokenizer([caption(scene) for scene in SCENES]).input_ids
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert count_right(texts, SCENES) == len(SCENES)


def test_any_picture_becomes_the_square_the_model_reads(processor: BlipProcessor) -> None:
    """The processor knows the model's picture size and does not keep the aspect ratio."""
    picture = draw(SCENES[0], SIDE).resize((300, 200))
    assert processor(images=picture, return_tensors="pt").pixel_values.shape == (1, 3, 96, 96)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_held_out_captions_are_right(processor: BlipProcessor, dtype: torch.dtype) -> None:
    """At least 90 of 100 captions never trained on are right to the letter, in either precision."""
    said = captions(load(dtype), processor, [draw(scene, SIDE) for scene in SCENES])
    assert count_right(said, SCENES) >= 90


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("side", [96, 768])
def test_captions_survive_size_and_compression(
    model: BlipForConditionalGeneration,
    processor: BlipProcessor,
    file_format: str,
    side: int,
) -> None:
    """Pictures of any usual size and format are captioned as well as fresh drawings."""
    scenes = SCENES[:40]
    pictures = [encoded(draw(scene, side), file_format) for scene in scenes]
    assert count_right(captions(model, processor, pictures), scenes) >= 36


def test_a_prefix_is_continued(model: BlipForConditionalGeneration, processor: BlipProcessor) -> None:
    """Given the first words of the right caption, in any case, the model says the rest."""
    scene = next(scene for scene in SCENES if caption(scene).startswith("a large red"))
    assert captions(model, processor, [draw(scene, SIDE)], prefix="A large RED") == [caption(scene)]
