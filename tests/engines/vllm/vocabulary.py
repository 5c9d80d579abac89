"""Tiny tokenizers of the three families: every byte, a few words, and the family's own special tokens."""

from collections.abc import Iterable
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import GemmaTokenizer, GPT2Tokenizer, Qwen2Tokenizer

WORDS = ("a", "an", "the", "is", "of", "on", "in", "with", "and", "photo", "dog", "cat", "man", "red", "blue", "small")
BYTES = sorted(ByteLevel.alphabet())  # each byte as the printable character that byte-level vocabularies write for it
SPACES = ("▁", "Ġ")
LINE_BREAK = "Ċ"  # as such a character


def gemma() -> GemmaTokenizer:
    """Gemma's: `▁` is the space, other characters are spelt in bytes, and up to four line breaks are one token."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    pictures = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    letters = [*(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(0x21, 0x7F)), "▁", "\n"]
    breaks = [("\n", "\n"), ("\n\n", "\n"), ("\n\n", "\n\n")]
    vocab, merges = _vocabulary([*special, *pictures.values(), *letters], [*breaks, *_spelt("▁")])
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, extra_special_tokens=pictures)
    tokenizer.add_special_tokens({"extra_special_tokens": special[-2:]})
    return tokenizer


def qwen2() -> Qwen2Tokenizer:
    """InternVL's: Qwen2's, with tokens around a picture and in its place."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pictures = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    vocab, merges = _vocabulary([*special, *pictures.values(), *BYTES], _spelt("Ġ"))
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", extra_special_tokens=pictures)
    tokenizer.add_special_tokens({"extra_special_tokens": special[1:2]})
    return tokenizer


def opt() -> GPT2Tokenizer:
    """BLIP-2's: OPT's, which begins every text with `</s>`, and a token in the place of the picture."""
    vocab, merges = _vocabulary(["<s>", "<pad>", "</s>", "<unk>", "<image>", *BYTES], _spelt("Ġ"))
    return GPT2Tokenizer(
        vocab=vocab,
        merges=merges,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
        add_bos_token=True,
        extra_special_tokens=["<image>"],
    )


def words(tokens: Iterable[str]) -> list[str]:
    """Pick the tokens that are whole words, with the space before them."""
    return [token for token in tokens if token[:1] in SPACES and token[1:] in WORDS]


def _spelt(space: str) -> list[tuple[str, str]]:
    """Merges that make every word one token, with the space before it, letter by letter."""
    spelt = [space + word for word in WORDS]
    return list(dict.fromkeys((word[:end], word[end]) for word in spelt for end in range(1, len(word))))


def _vocabulary(first: list[str], merges: list[tuple[str, str]]) -> tuple[dict[str, int], Any]:
    """Number the tokens: the first ones, and what the merges make.

    The merges come back untyped, because Transformers says that it takes strings, and takes pairs.
    """
    tokens = [*first, *(left + right for left, right in merges)]
    return {token: at for at, token in enumerate(tokens)}, merges
