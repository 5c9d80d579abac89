"""The budgets of tokens that vLLM must not run CogVLM with, told in a sentence. Pure.

vLLM replays its graph for decoding whenever each request of a step has exactly one token, and that graph computes the
language expert alone. So no step of single tokens may hold a picture's patch. It cannot while a step takes more tokens
than sequences: single tokens then never use up a step's budget, so nothing cuts a prompt to one token, and the one
token that is left of a prompt is its last, which is text. Only by priority may vLLM take a request out of a step again
that had used up its budget, and leave single tokens of which one is a patch.
"""

from typing import Final, NamedTuple

TEXT_TOKENS: Final = 16  # the fewest for a question and an answer beside a picture


class Budgets(NamedTuple):
    """vLLM's options by their own names, in tokens and sequences; None where one is not known (yet)."""

    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    long_prefill_token_threshold: int | None = None
    max_model_len: int | None = None
    speculative: bool = False
    scheduling_policy: str | None = None


def refusal(budgets: Budgets, image_tokens: int) -> str | None:
    """Why vLLM must not run so, as a sentence with the remedy; None when it may.

    `image_tokens` is what a picture takes of a prompt.
    """
    tokens, sequences, length = budgets.max_num_batched_tokens, budgets.max_num_seqs, budgets.max_model_len
    if tokens is not None and sequences is not None and tokens <= sequences:
        return (
            f"`max-num-batched-tokens` ({tokens}) must be greater than `max-num-seqs` ({sequences}), or parts of a "
            "picture could be read as text; raise the one or lower the other"
        )
    if budgets.long_prefill_token_threshold == 1:
        return "`long-prefill-token-threshold` must not be 1, or parts of a picture could be read as text; leave it out"
    if budgets.speculative:
        return "CogVLM cannot be run with speculative decoding; leave out `speculative-config`"
    if budgets.scheduling_policy == "priority":
        return (
            '`scheduling-policy = "priority"` cannot be used with CogVLM, or parts of a picture could be read as text; '
            "leave it out"
        )
    if length is not None and length < image_tokens + TEXT_TOKENS:
        return (
            f"`max_model_len` ({length}) has no room for a picture, which takes {image_tokens} tokens beside the text; "
            f"set it to {image_tokens + TEXT_TOKENS} or more, or leave it out"
        )
    return None
