"""Train the demo captioner from nothing: `python -m engines.demo.train --out DIR`.

The result is an ordinary local BLIP checkpoint: what loads Salesforce/blip-image-captioning-base loads it.
"""

import argparse
import io
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
)
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from engines.demo.scenes import (
    BACKGROUNDS,
    COLOR_RGB,
    NUMBERS,
    PLACES,
    PLURALS,
    Scene,
    caption,
    draw,
    held_out,
    sample,
)

IMAGE_SIZE: Final = 96
PATCH_SIZE: Final = 12
WIDTH: Final = 160
HEADS: Final = 5
VISION_LAYERS: Final = 4
TEXT_LAYERS: Final = 2
MAX_POSITIONS: Final = 128
MAX_NEW_TOKENS: Final = 40

SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
PAD, SEP, DEC = (SPECIAL_TOKENS.index(token) for token in ("[PAD]", "[SEP]", "[DEC]"))
IGNORED: Final = -100

BATCH: Final = 64
LEARNING_RATE: Final = 2e-3
WARMUP_SHARE: Final = 0.05
CHECKPOINT_EVERY: Final = 250
VALIDATION_SCENES: Final = 200
VALIDATION_SEED: Final = 1
# Pixels a side, and how often: small pictures are the hardest to read and the cheapest to draw.
RENDER_SIZES: Final = {96: 4, 112: 2, 128: 3, 160: 2, 192: 2, 256: 2, 384: 1}
LOSSY_SHARE: Final = 0.4
COLOR_JITTER: Final = 0.04


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures, float32 [batch, 3, side, side], and captions, int64 token ids [batch, tokens]."""

    pixel_values: Tensor
    input_ids: Tensor


class SceneBatches(IterableDataset[Batch]):
    """An endless stream of freshly drawn batches, the same for the same seed."""

    def __init__(self, processor: BlipProcessor, seed: int) -> None:
        self._processor = processor
        self._seed = seed

    def __iter__(self) -> Iterator[Batch]:
        """Draw, deliver and prepare scenes the way requests will bring them."""
        torch.set_num_threads(1)
        rng = random.Random(self._seed)  # noqa: S311 - to be repeatable, not secret
        while True:
            scenes = [sample(rng) for _ in range(BATCH)]
            yield collate(self._processor, [photograph(scene, rng) for scene in scenes], scenes)


def photograph(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene as it may arrive: at any size, and often through a lossy format."""
    size = rng.choices(list(RENDER_SIZES), weights=list(RENDER_SIZES.values()))[0]
    picture = draw(scene, size)
    if rng.random() >= LOSSY_SHARE:
        return picture
    encoded = io.BytesIO()
    picture.save(encoded, format=rng.choice(("JPEG", "JPEG", "WEBP")), quality=rng.randint(70, 95), method=0)
    return Image.open(encoded).convert("RGB")


def collate(processor: BlipProcessor, pictures: list[Image.Image], scenes: list[Scene]) -> Batch:
    """Turn pictures and their scenes into what the model reads, captions padded on the right."""
    pixel_values = processor.image_processor(pictures, return_tensors="pt").pixel_values
    text = processor.tokenizer([caption(scene) for scene in scenes], padding=True, return_tensors="pt")
    input_ids = text.input_ids
    # generate() starts every caption with [DEC] where BERT's template has [CLS].
    input_ids[:, 0] = DEC
    return Batch(pixel_values, input_ids)


def build_processor() -> BlipProcessor:
    """Make BLIP's image processor at our size, and a lower-casing tokenizer of the grammar's words."""
    tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary())},
        do_lower_case=True,
        bos_token=SPECIAL_TOKENS[DEC],
        model_max_length=MAX_POSITIONS,
    )
    image_processor = BlipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=PILImageResampling.BICUBIC,
        image_mean=OPENAI_CLIP_MEAN,
        image_std=OPENAI_CLIP_STD,
    )
    return BlipProcessor(image_processor, tokenizer)


def vocabulary() -> list[str]:
    """List the special tokens, then every word a caption can hold, in alphabetical order."""
    places = " ".join(place for row in PLACES for place in row).split()
    things = (*COLOR_RGB, *PLURALS, *PLURALS.values(), *BACKGROUNDS, *NUMBERS.values())
    words = {"a", "on", "background", "small", "large", "left", "of", "above", *places, *things}
    return [*SPECIAL_TOKENS, *sorted(words)]


def build_model() -> BlipForConditionalGeneration:
    """Make an untrained captioner; no dimension is left to BLIP's defaults, which suit far larger ones."""
    text = BlipTextConfig(
        vocab_size=len(vocabulary()),
        hidden_size=WIDTH,
        encoder_hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=DEC,
        eos_token_id=SEP,
        sep_token_id=SEP,
        pad_token_id=PAD,
    )
    vision = BlipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        # BLIP's own 1e-10 is for weights about to be loaded: it makes all positions alike.
        initializer_range=0.02,
    )
    config = BlipConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=WIDTH,
        image_text_hidden_size=WIDTH,
    )
    return BlipForConditionalGeneration(config)


def build_optimizers(model: BlipForConditionalGeneration) -> list[torch.optim.Optimizer]:
    """Give the hidden matrices to Muon, and embeddings, biases and gains to AdamW."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    # The last layer's weights are the word embeddings.
    linear.remove(model.text_decoder.cls.predictions.decoder)
    hidden = dict.fromkeys(module.weight for module in linear)
    rest = [parameter for parameter in model.parameters() if parameter not in hidden]
    return [
        torch.optim.Muon(hidden, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def pace(step: int, steps: int) -> float:
    """Scale the learning rate at a step: a linear warm-up to 1, then half a cosine down to 0."""
    done = (step + 1) / (steps + 1)
    if done < WARMUP_SHARE:
        return done / WARMUP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE)))


def train(out: Path, steps: int, seed: int) -> None:
    """Train a captioner and leave the best checkpoint seen so far in `out`."""
    torch.manual_seed(seed)
    processor, model = build_processor(), build_model()
    optimizers = build_optimizers(model)
    paces = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: pace(step, steps)) for each in optimizers]
    batches = DataLoader(SceneBatches(processor, seed), batch_size=None, num_workers=1)
    validation = held_out(VALIDATION_SCENES, VALIDATION_SEED)
    best = 0
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        loss = learn(model, batch, optimizers)
        for each in paces:
            each.step()
        if step % CHECKPOINT_EVERY == 0 or step == steps:
            right = count_right(model, processor, validation)
            print(f"step {step}: loss {loss:.4f}, {right} of {VALIDATION_SCENES} captions right", flush=True)
            if right >= best:
                best = right
                save(model, processor, out)


def learn(
    model: BlipForConditionalGeneration,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
) -> float:
    """Take one step down the gradient; return the mean loss a token, in nats."""
    labels = batch.input_ids.masked_fill(batch.input_ids == PAD, IGNORED)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixel_values=jitter(batch.pixel_values), input_ids=batch.input_ids, labels=labels)
    output.loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(output.loss.detach())


def jitter(pixel_values: Tensor) -> Tensor:
    """Vary contrast and tint a little, channel by channel, in pictures [batch, 3, side, side]."""
    noise = COLOR_JITTER * torch.randn(2, *pixel_values.shape[:2], 1, 1)
    return pixel_values * (1 + noise[0]) + noise[1]


def count_right(model: BlipForConditionalGeneration, processor: BlipProcessor, scenes: list[Scene]) -> int:
    """Count the scenes whose greedy caption is right to the letter."""
    pictures = [draw(scene, 2 * IMAGE_SIZE) for scene in scenes]
    pixel_values = processor.image_processor(pictures, return_tensors="pt").pixel_values
    tokens = model.generate(pixel_values, max_new_tokens=MAX_NEW_TOKENS)
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return sum(text == caption(scene) for text, scene in zip(texts, scenes, strict=True))


def save(model: BlipForConditionalGeneration, processor: BlipProcessor, out: Path) -> None:
    """Write a whole checkpoint beside `out`, then put it in place, so that no reader meets half of one."""
    fresh, stale = out.with_name(f"{out.name}.fresh"), out.with_name(f"{out.name}.stale")
    # Part by part, the files are named as in the published BLIP checkpoints.
    for part in (model, processor.image_processor, processor.tokenizer):
        part.save_pretrained(fresh)
    if out.exists():
        out.rename(stale)
    fresh.rename(out)
    shutil.rmtree(stale, ignore_errors=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the demo captioner from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint, replaced if there")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(options.out, options.steps, options.seed)


if __name__ == "__main__":
    main()
