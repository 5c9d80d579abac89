"""What the engine's own decode loop costs beside Transformers' `generate`: `python -m bench.blip_decode`.

BLIP-base dimensions, random weights, 384 pixels, greedy, 20 tokens for every row. Prints times and their ratios for the
vision tower, for one step of decoding (the whole less the tower) and for the whole, and how many tokens are equal. On a
GPU it prints as well the most memory that both took together.
"""

import argparse
import time
from collections.abc import Callable
from itertools import chain, starmap
from operator import eq
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipTextConfig,
    BlipVisionConfig,
)

from engines.blip.job import Job
from engines.blip.model import BlipModel, choose_device, choose_dtype

TOKENS = 20
VOCABULARY = 30524
SEP = 102


def base_checkpoint(folder: Path) -> None:
    """Save a model of BLIP-base's dimensions whose captions never end."""
    torch.manual_seed(0)
    text = BlipTextConfig(num_attention_heads=12, vocab_size=VOCABULARY, sep_token_id=SEP)
    vision = BlipVisionConfig(initializer_range=0.02)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    with torch.no_grad():
        model.text_decoder.cls.predictions.decoder.bias[SEP] -= 1000.0
    model.save_pretrained(folder)
    BlipImageProcessorPil().save_pretrained(folder)
    words = {f"[unused{at}]": at for at in range(VOCABULARY)}
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": SEP, "[MASK]": 103, "[DEC]": 30522}
    placed = {at: word for word, at in words.items()} | {at: word for word, at in special.items()}
    BertTokenizer(vocab={word: at for at, word in placed.items()}).save_pretrained(folder)


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The best of the rounds, after one that warms up: what the machine can do when nobody else uses it."""
    work()
    times = []
    for _ in range(rounds):
        finish()
        began = time.perf_counter()
        work()
        finish()
        times.append(time.perf_counter() - began)
    return min(times)


def finish() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(model: BlipModel, theirs: Any, batch: int, rounds: int) -> str:
    """One line of the table. `theirs` is the same checkpoint as Transformers loads it."""
    pixels = torch.randn(batch, 3, 384, 384, generator=torch.Generator().manual_seed(batch))
    jobs = [Job(one.numpy(), model.prompt_ids(""), TOKENS) for one in pixels]

    def captions() -> list[list[int]]:
        return [[token.id for _, token in step] for step in model.captions(jobs, lambda _: False)]

    def generate() -> list[list[int]]:
        made = theirs.generate(pixels.to(theirs.device), max_new_tokens=TOKENS, do_sample=False)
        return cast("list[list[int]]", made[:, 1:].T.tolist())

    same = sum(starmap(eq, zip(chain(*captions()), chain(*generate()), strict=True)))
    with torch.inference_mode():
        own_tower = seconds(lambda: model._model.vision_model(pixel_values=pixels.to(theirs.device)), rounds)
        tower = seconds(lambda: theirs.vision_model(pixel_values=pixels.to(theirs.device)), rounds)
    own, whole = seconds(captions, rounds), seconds(generate, rounds)
    steps = (own - own_tower) / TOKENS, (whole - tower) / TOKENS
    return (
        f"{batch:5}  {own_tower * 1e3:6.1f} / {tower * 1e3:6.1f} ms = {tower / own_tower:4.2f}"
        f"  {steps[0] * 1e3:6.2f} / {steps[1] * 1e3:6.2f} ms = {steps[1] / steps[0]:4.2f}"
        f"  {own * 1e3:6.0f} / {whole * 1e3:6.0f} ms = {whole / own:4.2f}"
        f"  {same} of {batch * TOKENS} equal"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    with TemporaryDirectory() as folder:
        base_checkpoint(Path(folder))
        dtype = choose_dtype(options.dtype, device)
        model = BlipModel(Path(folder), device=device, dtype=dtype)
        theirs: Any = BlipForConditionalGeneration.from_pretrained(folder, dtype=dtype)  # in evaluation mode
        theirs.to(device)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} threads"
    print(f"{model.facts.dtype}, {place}, {TOKENS} tokens, best of {options.rounds}")
    print("batch  tower: own / theirs        step: own / theirs         whole: own / theirs      tokens")
    for batch in options.batch:
        print(compare(model, theirs, batch, options.rounds), flush=True)
    if device.type == "cuda":
        print(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB of the GPU at most, both models together")


if __name__ == "__main__":
    main()
