"""Where each token of a prompt stands, and which expert computes it. Pure.

Both travel to the model in the rows that vLLM keeps for positions of several dimensions: they belong to each token, so
they hold for prompts cut into chunks, prefixes from the cache and any mixture of requests, and no text can forge them.
"""

from collections.abc import Sequence
from itertools import accumulate

Span = tuple[int, int]
"""A picture's first token in the prompt, and how many it has: one that opens it, its patches, one that closes it."""


def positions(spans: Sequence[Span], tokens: int) -> tuple[list[list[int]], int]:
    """The rows of positions of a prompt, [3][tokens], and the delta of the tokens that follow it.

    The first row is the rotary position: all patches of a picture share one, every other token counts. The second is
    greater by one where the vision expert computes the token, which are the opening token and the patches. A token
    generated later stands at its index plus the delta, in all rows: the language expert's.
    """
    patches = {index for first, length in spans for index in range(first + 1, first + length - 1)}
    seen = patches | {first for first, _ in spans}
    advances = (not {index - 1, index} <= patches for index in range(1, tokens))
    rotary = list(accumulate(advances, initial=0))
    expert = [position + (index in seen) for index, position in enumerate(rotary)]
    return [rotary, expert, rotary], rotary[-1] + 1 - tokens
