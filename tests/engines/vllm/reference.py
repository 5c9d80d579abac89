"""What Transformers answers, with its own model, processor and greedy search: what vLLM's tokens have to equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Blip2ForConditionalGeneration


@dataclass(frozen=True)
class Turn:
    """One message: a role, and texts and pictures in their order."""

    role: str
    parts: tuple[str | Image.Image, ...]

    def message(self) -> dict[str, object]:
        """Put the turn as Transformers' chat templates take it."""
        return {
            "role": self.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
                for part in self.parts
            ],
        }


@dataclass(frozen=True)
class Answer:
    """The new tokens, their text without special tokens, and the narrowest choice among them.

    A margin is by how many standard deviations of the logits the chosen token beat the next best.
    """

    ids: list[int]
    text: str
    margin: float


class Reference:
    """A checkpoint in float32."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        processors: Any = AutoProcessor
        self._processor: Any = processors.from_pretrained(folder)

    def answer(self, turns: Sequence[Turn], max_tokens: int) -> Answer:
        """Answer the last turn with at most so many tokens."""
        inputs = self._inputs(turns)
        made = self._generator(inputs).generate(
            **inputs,
            max_new_tokens=max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        ids = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        logits = torch.cat(made.logits)
        best = logits.topk(2).values
        margin = ((best[:, 0] - best[:, 1]) / logits.std(dim=1)).min().item()
        ends = self._model.generation_config.eos_token_id
        said = ids[:-1] if ids[-1] in (ends if isinstance(ends, list) else [ends]) else ids
        return Answer(ids, self._processor.decode(said, skip_special_tokens=True), margin)

    def _generator(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Choose the model that generates: BLIP-2 does with a picture alone, without one its language model does."""
        text_only = isinstance(self._model, Blip2ForConditionalGeneration) and "pixel_values" not in inputs
        return self._model.language_model if text_only else self._model

    def _inputs(self, turns: Sequence[Turn]) -> Any:
        """Make what the model takes: by the family's chat template, or as BLIP-2's authors ask, who have none."""
        if self._processor.chat_template is None:
            pictures = [part for turn in turns for part in turn.parts if isinstance(part, Image.Image)]
            return self._processor(images=pictures or None, text=question(turns), return_tensors="pt")
        return self._processor.apply_chat_template(
            [turn.message() for turn in turns],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


def question(turns: Sequence[Turn]) -> str:
    """Put a dialogue in BLIP-2's form."""
    label = {"user": "Question: ", "assistant": "Answer: "}
    said = [label[turn.role] + "\n".join(part for part in turn.parts if isinstance(part, str)) for turn in turns]
    return " ".join([*said, "Answer:"])
