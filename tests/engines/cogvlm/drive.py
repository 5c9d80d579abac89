"""Runs vLLM on the jobs given on standard input: `python -m tests.engines.cogvlm.drive HEARD`."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image
from vllm import LLM, SamplingParams
from vllm.v1.metrics.reader import Counter

from tests.engines.cogvlm.rounds import Heard, Job, Run, Told


def main() -> None:
    """Load the checkpoint, answer round after round, and write down what was told."""
    run = msgspec.json.decode(sys.stdin.buffer.read(), type=Run)
    llm = LLM(run.model, **run.options)
    rounds = [_answered(llm, jobs) for jobs in run.rounds]
    counters = [metric for metric in llm.get_metrics() if isinstance(metric, Counter)]
    preemptions = sum(counter.value for counter in counters if counter.name == "vllm:num_preemptions")
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(Heard(rounds, preemptions)))


def _answered(llm: LLM, jobs: Sequence[Job]) -> list[Told]:
    """Answer the jobs of one round, all of them at once."""
    asked = [SamplingParams(temperature=0, max_tokens=job.max_tokens, logprobs=0) for job in jobs]
    return [_told(output) for output in llm.generate([_prompt(job) for job in jobs], asked, use_tqdm=False)]


def _prompt(job: Job) -> Any:
    """Put a job as vLLM takes it; typed loosely, because vLLM's own types of prompts change with every version."""
    prompt: dict[str, object] = {"prompt" if isinstance(job.prompt, str) else "prompt_token_ids": job.prompt}
    if job.picture is not None:
        prompt["multi_modal_data"] = {"image": Image.open(io.BytesIO(job.picture))}
    return prompt


def _told(output: Any) -> Told:
    """Note what a request came to; vLLM types as optional what is always there."""
    answer = output.outputs[0]
    chosen = [choices[token].logprob for choices, token in zip(answer.logprobs, answer.token_ids, strict=True)]
    return Told(output.prompt_token_ids, output.num_cached_tokens, list(answer.token_ids), chosen)


if __name__ == "__main__":
    main()
