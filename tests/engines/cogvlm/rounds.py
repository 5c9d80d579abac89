"""Rounds of requests to vLLM, which runs in a process of its own: nothing of it stays behind in pytest's."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import msgspec

ROOT = Path(__file__).parents[3]
OPTIONS: Mapping[str, object] = {
    "dtype": "float32",
    "max_model_len": 256,
    "max_num_seqs": 16,
    "block_size": 32,
    "kv_cache_memory_bytes": 2**26,
    "disable_log_stats": False,
}
ENVIRON = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


class Job(msgspec.Struct, frozen=True):
    """One request: the ids of its text, or the text itself, and its picture as a PNG."""

    prompt: list[int] | str
    picture: bytes | None
    max_tokens: int


class Told(msgspec.Struct, frozen=True):
    """What vLLM made of a request: the whole prompt, its tokens met in the cache, new tokens with log-probabilities."""

    prompt: list[int]
    cached: int
    ids: list[int]
    logprobs: list[float]


class Run(msgspec.Struct, frozen=True):
    """A prepared checkpoint, vLLM's options, and rounds of jobs: those of one round are given to vLLM at once."""

    model: str
    options: dict[str, Any]
    rounds: list[list[Job]]


class Heard(msgspec.Struct, frozen=True):
    """What a run told, round by round, and how often vLLM took a request's blocks away to serve another."""

    rounds: list[list[Told]]
    preemptions: int


def ask(
    model: Path,
    rounds: Sequence[Sequence[Job]],
    environ: Mapping[str, str] | None = None,
    program: str = "drive",
    **options: object,
) -> Heard:
    """Run vLLM with these options and hear what it tells; when it fails, the error has the end of its log."""
    run = Run(str(model), {**OPTIONS, **options}, [list(jobs) for jobs in rounds])
    with NamedTemporaryFile() as heard:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.engines.cogvlm.{program}", heard.name],
            input=msgspec.json.encode(run),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **ENVIRON, **(environ or {})},
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-8000:]
        return msgspec.json.decode(heard.read(), type=Heard)
