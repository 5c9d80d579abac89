"""What vLLM loads: a checkpoint as it is, or one that is made ready for it first; and whether it may run as asked."""

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from engines.cogvlm import layout, tokens, weights
from engines.cogvlm.budgets import Budgets, refusal
from engines.cogvlm.prepare import GENERATION, ensure_intact, ensure_prepared
from engines.loading import LoadError, Report
from engines.source import configuration, locate, locate_tokenizer, spoken
from engines.vllm.command import cache_folder

FILES: Final = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


class Checkpoint(NamedTuple):
    """A folder that vLLM can load, its config.json, and the folder of its tokenizer where that is another."""

    folder: Path
    config: Mapping[str, Any]
    tokenizer: Path | None


def ready(source: str, revision: str, tokenizer: str | None, environ: Mapping[str, str], report: Report) -> Checkpoint:
    """Finds or downloads a checkpoint and its tokenizer; a CogVLM as published is prepared, in Altgate's own cache.

    A checkpoint that was prepared already has its tokenizer with it.

    Raises:
        LoadError: one of them cannot be had or used.
    """
    name = spoken(source)
    folder = locate(source, revision, report, files=FILES)
    config = configuration(folder, name)
    if not layout.is_prepared(config):
        words = locate_tokenizer(tokenizer, files=FILES) if tokenizer is not None else None
        if not layout.is_published(config):
            return Checkpoint(folder, config, words)
        folder = _prepared(folder, words, cache_folder(environ) / "prepared", name, report)
    else:
        ensure_intact(folder, name)
    return Checkpoint(folder, configuration(folder, name), None)


def ensure_servable(checkpoint: Checkpoint, max_model_len: int | None, options: Sequence[str]) -> None:
    """Refuses what vLLM would notice late: budgets, in vLLM's own `options`, with which CogVLM would go wrong.

    Raises:
        LoadError: the sentence with the remedy.
    """
    if not layout.is_prepared(checkpoint.config):
        return
    sentence = refusal(_budgets(max_model_len, options), int(checkpoint.config["image_tokens"]))
    if sentence is not None:
        raise LoadError(sentence)


def _prepared(source: Path, tokenizer: Path | None, cache: Path, name: str, report: Report) -> Path:
    """The prepared folder, named by all that it was made of: a later start finds it, and a change makes another."""
    made_of = [
        str(layout.VERSION),
        *_listing(source, ("config.json", GENERATION, weights.INDEX, "*.safetensors")),
        *_listing(tokenizer or source, tokens.FILES),
    ]
    folder = cache / hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:32]
    ensure_prepared(source, tokenizer, folder, name=name, report=report)
    return folder


def _listing(folder: Path, patterns: Sequence[str]) -> Iterator[str]:
    """A folder's place and some of its files, as they are now."""
    yield str(folder.resolve())
    for file in sorted(found for pattern in patterns for found in folder.glob(pattern)):
        if file.is_file():
            seen = file.stat()
            yield f"{file.name} {seen.st_size} {seen.st_mtime_ns}"


def _budgets(max_model_len: int | None, options: Sequence[str]) -> Budgets:
    """The budgets among vLLM's options, as far as they are plain numbers; vLLM takes either dash for the other."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for field in ("max_num_batched_tokens", "max_num_seqs", "long_prefill_token_threshold"):
        parser.add_argument(f"--{field}", f"--{field.replace('_', '-')}", dest=field, type=_number, nargs="?")
    parser.add_argument("--speculative_config", "--speculative-config", dest="speculative", nargs="?")
    parser.add_argument("--scheduling_policy", "--scheduling-policy", dest="scheduling_policy", nargs="?")
    given, _ = parser.parse_known_args(options)
    return Budgets(
        max_num_batched_tokens=given.max_num_batched_tokens,
        max_num_seqs=given.max_num_seqs,
        long_prefill_token_threshold=given.long_prefill_token_threshold,
        max_model_len=max_model_len,
        speculative=given.speculative is not None,
        scheduling_policy=given.scheduling_policy,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
