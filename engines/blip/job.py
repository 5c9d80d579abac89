"""What the model is asked for and what it gives back; the words that `request.py` and `model.py` share."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Pixels: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: the likeliest one when `temperature` is 0, else by chance among the likeliest `top_p`.

    The same seed gives the same words whatever else is in the batch; None means chance.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One picture to caption, `choices` times.

    `pixels` is (3, height, width), as the checkpoint's own image processor makes it. `prompt` is what the decoder
    continues, from its first token on. At most `limit` tokens are made for each choice.
    """

    pixels: Pixels
    prompt: tuple[int, ...]
    limit: int
    sampling: Sampling = Sampling()
    choices: int = 1

    @property
    def kind(self) -> Hashable:
        """Prompts of one length share a batch, for BLIP has no padding that leaves its answers alone."""
        return len(self.prompt)


@dataclass(frozen=True)
class Token:
    """One token of one choice. Its last has a `finish`: "stop" for the model's end token, "length" at the limit."""

    choice: int
    id: int
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True)
class Facts:
    """What a loaded model says of itself.

    A picture takes `image_tokens` of attention; prompt and caption share `positions`. `vocabulary` has each token's
    text by its id, None for special ones.
    """

    device: str
    dtype: str
    image_tokens: int
    positions: int
    vocabulary: tuple[str | None, ...]
