"""BLIP itself: weights, pixels, and the decode loop. With `decoding.py` all of the engine that imports torch.

The loop stands in place of `generate()`: its tokens are the same, and in addition they can be had one by one, every
request of a batch keeps its own sampling and seed, and who has ended or left makes room for the others.

What `BlipForConditionalGeneration.generate` does to a prompt and `prompt_ids` repeats: the first token becomes the
decoder's own start token, the last one ([SEP]) is dropped, and [SEP] is what ends a caption.
"""

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    PreTrainedTokenizerBase,
)

from engines.blip.decoding import Decoder, GrowingDecoder, RecordedDecoder, text_config
from engines.blip.job import Facts, Job, Pixels, Sampling, Token
from engines.loading import LoadError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """The device asked for; "auto" takes the GPU where there is one.

    Raises:
        LoadError: "cuda" is asked for and torch sees no GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise LoadError("the device is set to cuda, but PyTorch sees no GPU here; set it to auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The type asked for; "auto" takes bfloat16 where the hardware computes with it, for it halves what is read."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def use_threads(count: int | None) -> None:
    """Bounds the threads that work on one batch. A small model is fastest with one: more only wait for one another."""
    if count is not None:
        torch.set_num_threads(count)


@dataclass
class _Row:
    """One choice of one job: what decides its next token."""

    job: int
    choice: int
    left: int
    sampling: Sampling
    chance: torch.Generator | None


class BlipModel:
    """A loaded checkpoint. `captions` makes one batch at a time; `pixels` and `prompt_ids` can be called anywhere."""

    def __init__(self, folder: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        """Loads a local checkpoint; nothing is fetched.

        Raises:
            OSError, ValueError, KeyError: a file of the checkpoint is missing or does not fit the others.
            RuntimeError, MemoryError: the weights do not fit into memory.
        """
        model = BlipForConditionalGeneration.from_pretrained(folder, dtype=dtype, local_files_only=True)
        nn.Module.train(model, mode=False)
        nn.Module.to(model, device)
        if device.type == "cpu" and dtype is torch.bfloat16 and _can_pack():
            _pack(model)
        self._model = model
        self._recorded = RecordedDecoder(model) if device.type == "cuda" else None
        # The class is named, not looked up: the default backend resizes otherwise than the published captions' did.
        self._picture = _Preparation(BlipImageProcessorPil.from_pretrained(folder, local_files_only=True))
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._device = device
        text = text_config(model)
        self._start, self._end = cast("int", text.bos_token_id), cast("int", text.sep_token_id)
        self.facts = Facts(
            device=device.type,
            dtype=str(dtype).removeprefix("torch."),
            image_tokens=self._model.vision_model.embeddings.num_positions,
            positions=text.max_position_embeddings,
            vocabulary=_vocabulary(self._tokenizer),
        )

    def pixels(self, picture: Image.Image) -> Pixels:
        """The picture as the checkpoint's own image processor makes it: (3, height, width), float32."""
        return self._picture.pixels(picture)

    def prompt_ids(self, prefix: str) -> tuple[int, ...]:
        """What the decoder continues: its start token and the prefix, if any."""
        ids = self._tokenizer(prefix)["input_ids"]
        return (self._start, *ids[1:-1])

    def warm_up(self, most: int) -> None:
        """Captions a blank picture, so that the first request does not pay for what is set up at first use.

        A GPU is set up for batches of every size, from the largest on, `most`: their memory is there, or this fails.
        """
        blank = Job(self.pixels(Image.new("RGB", (16, 16))), (self._start,), limit=2)
        sizes = {most, *(1 << at for at in range(most.bit_length()))} if self._device.type == "cuda" else {1}
        for size in sorted(sizes, reverse=True):
            for _ in self.captions([blank] * size, lambda _: False):
                pass

    def is_broken(self) -> bool:
        """Whether the device is lost to this process: after some errors a GPU does nothing more for it."""
        if self._device.type != "cuda":
            return False
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return True
        return False

    def captions(
        self, jobs: Sequence[Job], gone: Callable[[int], bool]
    ) -> Generator[Sequence[tuple[int, Token]], None, None]:
        """Captions the jobs together, their prompts of one length; yields each step's token of every row.

        A row ends with the model's end token, at its job's limit, or when its caller has gone.
        """
        rows = [row for index, job in enumerate(jobs) for row in _rows(index, job)]
        seen = self._see([job.pixels for job in jobs])
        decoder: Decoder = self._recorded or GrowingDecoder(self._model)
        logits = decoder.begin(seen, [job.prompt for job in jobs], [row.job for row in rows])
        while rows:
            tokens = [self._token(row, token) for row, token in zip(rows, _choose(logits, rows), strict=True)]
            yield [(row.job, token) for row, token in zip(rows, tokens, strict=True)]
            on = [at for at, row in enumerate(rows) if tokens[at].finish is None and not gone(row.job)]
            if on:
                logits = decoder.step(on, [tokens[at].id for at in on])
            rows = [rows[at] for at in on]

    def _token(self, row: _Row, id_: int) -> Token:
        row.left -= 1
        if id_ == self._end:
            return Token(row.choice, id_, "stop")
        return Token(row.choice, id_, None if row.left else "length")

    @torch.inference_mode()
    def _see(self, pixels: Sequence[Pixels]) -> Tensor:
        """What the decoder attends to, (pictures, patches + 1, width); a picture is seen once for all its choices.

        Where a GPU has no room for all of them together, halves are seen one after the other.
        """
        try:
            together = torch.stack([torch.from_numpy(one).to(self._device) for one in pixels])
            return cast("Tensor", self._model.vision_model(pixel_values=together).last_hidden_state)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        half = len(pixels) // 2  # when what was tried has been freed
        return torch.cat([self._see(pixels[:half]), self._see(pixels[half:])])


class _Preparation:
    """What the image processor does to a picture, in half its time: it resizes as that does, and looks values up.

    What becomes of one of 256 levels in a channel is the processor's own arithmetic, done once, bit for bit.
    """

    def __init__(self, processor: BlipImageProcessorPil) -> None:
        self._size = processor.size["width"], processor.size["height"]
        self._filter = Image.Resampling(processor.resample)
        levels = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (1, 1, 3))
        values = processor(Image.fromarray(levels), do_resize=False, return_tensors="np")["pixel_values"][0]
        self._values = np.asarray(values, dtype=np.float32)[:, 0]

    def pixels(self, picture: Image.Image) -> Pixels:
        """The values of an RGB picture."""
        levels = np.asarray(picture.resize(self._size, self._filter))
        return np.stack([values[levels[..., channel]] for channel, values in enumerate(self._values)])


class _Packed(nn.Module):
    """A linear layer whose weights lie in memory as oneDNN reads them.

    Without it oneDNN lays them out anew at every call, which for one row takes longer than the product itself. The
    numbers that come out are the same, bit for bit. The two operations are those that torch.compile uses for it.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 1)
        self._bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        """The layer, of rows (..., in), as (..., out)."""
        return cast("Tensor", torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], ""))


def _can_pack() -> bool:
    """Whether this build of PyTorch has oneDNN, and the processor what it needs for bfloat16."""
    operations = torch.ops.mkldnn
    return hasattr(operations, "_linear_pointwise") and bool(operations._is_mkldnn_bf16_supported())


def _pack(module: nn.Module) -> None:
    """Packs every linear layer under the module, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _Packed(child))
        else:
            _pack(child)


def _rows(index: int, job: Job) -> Iterator[_Row]:
    """A job's rows. A choice's chance depends on the seed and its own number, and on nothing else in the batch."""
    for choice in range(job.choices):
        yield _Row(index, choice, job.limit, job.sampling, _chance(job.sampling, choice))


def _chance(sampling: Sampling, choice: int) -> torch.Generator | None:
    if sampling.temperature == 0:
        return None
    generator = torch.Generator()
    generator.manual_seed(secrets.randbits(62) if sampling.seed is None else sampling.seed + choice)
    return generator


@torch.inference_mode()
def _choose(logits: Tensor, rows: Sequence[_Row]) -> list[int]:
    """The next token of every row, from its logits (rows, vocabulary)."""
    exact = logits.float()
    chosen: list[int] = exact.argmax(dim=-1).tolist()
    for at, row in enumerate(rows):
        if row.chance is not None:
            chosen[at] = _draw(exact[at].cpu(), row.sampling, row.chance)
    return chosen


def _draw(logits: Tensor, sampling: Sampling, chance: torch.Generator) -> int:
    """Draws a token: the likeliest ones whose probabilities first reach `top_p` share a unit line by their size.

    One number is drawn per token whatever the probabilities are, so that tiny differences between batches, which the
    hardware's order of summing makes, hardly ever change the token.
    """
    scaled = (logits.double() - logits.max()) / sampling.temperature
    likely, ids = scaled.softmax(dim=-1).sort(descending=True, stable=True)
    reached = likely.cumsum(dim=-1)
    kept = int((reached - likely < sampling.top_p).sum().clamp(min=1))
    drawn = torch.rand((), generator=chance, dtype=torch.float64) * reached[kept - 1]
    return int(ids[min(int((reached[:kept] <= drawn).sum()), kept - 1)])


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, ...]:
    """Every token's text by its id; None for the special ones, which are never part of a caption."""
    special = set(tokenizer.all_special_ids)
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return tuple(None if id_ in special else word for id_, word in enumerate(words))
