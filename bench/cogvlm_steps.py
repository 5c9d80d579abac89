"""What CogVLM's second expert costs: `python -m bench.cogvlm_steps`, time per step of vLLM.

A CogVLM of the real widths with few layers and random weights, and a Llama of the same widths and layers, which is the
language model alone. Each runs in a vLLM of its own, in one process, whose steps are timed one by one. Both are asked
in turns, so that they meet the same machine.

decode            eight texts, a token each
decode, pictures  eight texts behind a picture each, whose tokens lie in the cache; Llama has as many words there
text chunk        seven texts, a token each, and 256 tokens of a long text
picture chunk     the same with 256 patches of a picture
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from engines.cogvlm.prepare import prepare
from tests.engines.cogvlm import tiny

WIDTHS = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
TOWER = {"hidden_size": 1792, "intermediate_size": 15360, "num_heads": 16, "image_size": 490, "num_positions": 1226}
PICTURE = 1227  # tokens
CHUNK = 256
ROWS = 8
WORD = 40  # any token that is text
ANSWER = "altgate-step: "


class Kind(NamedTuple):
    """What a step holds."""

    decodes: bool
    picture: bool


KINDS = {
    "decode": Kind(decodes=True, picture=False),
    "decode, pictures": Kind(decodes=True, picture=True),
    "text chunk": Kind(decodes=False, picture=False),
    "picture chunk": Kind(decodes=False, picture=True),
}


def main() -> None:
    """Prints the table; with `--model` it is one of the two processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="layers of the language model (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each kind in a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each model (%(default)s)")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        _serve(options.model, options.steps)
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as ended:
        folder = Path(name)
        sources = (
            _cogvlm(folder / "cogvlm", options.layers),
            _llama(folder, folder / "cogvlm/prepared", options.layers),
        )
        cogvlm, llama = (Vllm(source, options.steps) for source in sources)
        ended.callback(cogvlm.end)
        ended.callback(llama.end)
        print(f"{'':18}{'CogVLM':>10}{'language alone':>17}{'ratio':>8}")
        for kind in KINDS:
            both = [(cogvlm.seconds(kind), llama.seconds(kind)) for _ in range(options.turns)]
            ours, alone = (statistics.median(each) for each in zip(*both, strict=True))
            ratio = statistics.median(one / other for one, other in both)
            print(f"{kind:18}{ours * 1000:7.1f} ms{alone * 1000:14.1f} ms{ratio:8.2f}")


def _cogvlm(folder: Path, layers: int) -> Path:
    """A checkpoint without weights, which vLLM draws by itself."""
    published = tiny.cogvlm(folder / "published")
    prepare(published.checkpoint, published.tokenizer, folder / "prepared")
    file = folder / "prepared/config.json"
    config = json.loads(file.read_text())
    config |= {**WIDTHS, "num_hidden_layers": layers, "image_tokens": PICTURE, "max_position_embeddings": 4096}
    config["vision_config"] |= TOWER
    file.write_text(json.dumps(config))
    return folder / "prepared"


def _llama(parent: Path, beside: Path, layers: int) -> Path:
    """The language model alone, with the same tokenizer."""
    folder = parent / "llama"
    folder.mkdir()
    theirs = json.loads((beside / "config.json").read_text())
    shared = ("vocab_size", "rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id")
    config = {
        **WIDTHS,
        **{key: theirs[key] for key in shared},
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        if (beside / name).is_file():
            (folder / name).symlink_to(beside / name)
    return folder


class Vllm:
    """A vLLM in a process of its own, which times steps of a kind when it is told to."""

    def __init__(self, folder: Path, steps: int) -> None:
        environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "bench.cogvlm_steps", f"--model={folder}", f"--steps={steps}"]
        self._process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, kind: str) -> float:
        """The median of steps of a kind."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("it was started with pipes")
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return float(line.removeprefix(ANSWER))
        raise SystemExit("vLLM has ended; what it wrote says why")

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def _serve(folder: Path, steps: int) -> None:
    """Times what is asked for on standard input."""
    from vllm import LLM  # noqa: PLC0415 - only in a process of its own

    llm = LLM(
        str(folder),
        load_format="dummy",
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=16,
        max_num_batched_tokens=CHUNK + ROWS - 1,
        kv_cache_memory_bytes=12 * 2**30 // 10,
        enable_prefix_caching=False,
        enforce_eager=True,
        async_scheduling=False,
        disable_log_stats=True,
    )
    bench = Steps(llm.llm_engine, sees="cogvlm" in folder.parts[-2])
    for line in sys.stdin:
        kind = KINDS[line.strip()]
        timed = bench.decode if kind.decodes else bench.chunk
        sys.stdout.write(f"{ANSWER}{timed(steps, picture=kind.picture)}\n")
        sys.stdout.flush()


class Steps:
    """vLLM's engine, step by step."""

    def __init__(self, engine: Any, *, sees: bool) -> None:
        self._engine = engine
        self._sees = sees
        self._asked = 0

    def decode(self, steps: int, *, picture: bool) -> float:
        """The median step with a token of each of eight requests, in seconds."""
        for _ in range(ROWS):
            self._ask(picture=picture, tokens=steps + 100)
        for _ in range(ROWS * (PICTURE // CHUNK + 2)):  # until all prompts are read
            self._engine.step()
        median = statistics.median(self._timed(steps))
        self._end()
        return median

    def chunk(self, steps: int, *, picture: bool) -> float:
        """The median step with tokens of seven requests and the second chunk of another's prompt, in seconds."""
        for _ in range(ROWS - 1):
            self._ask(picture=False, tokens=1000)
        self._engine.step()
        taken = []
        for _ in range(steps):
            last = self._ask(picture=picture, tokens=1, long=True)
            _, second = self._timed(2)  # the first has the tower in it
            taken.append(second)
            self._engine.abort_request([last])
        self._end()
        return statistics.median(taken)

    def _timed(self, steps: int) -> Sequence[float]:
        return list(self._times(steps))

    def _times(self, steps: int) -> Iterator[float]:
        for _ in range(steps):
            started = time.perf_counter()
            self._engine.step()
            yield time.perf_counter() - started

    def _ask(self, *, picture: bool, tokens: int, long: bool = False) -> str:
        from vllm import SamplingParams  # noqa: PLC0415 - as above

        self._asked += 1
        words = 24 + (PICTURE if (picture or long) and not (picture and self._sees) else 0)
        prompt: dict[str, Any] = {"prompt_token_ids": [1, *[WORD] * words]}
        if picture and self._sees:
            colour = ((self._asked * 67) % 256, (self._asked * 131) % 256, 0)
            prompt["multi_modal_data"] = {"image": Image.new("RGB", (64, 64), colour)}
        name = str(self._asked)
        self._engine.add_request(
            name, prompt, SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True)
        )
        return name

    def _end(self) -> None:
        self._engine.abort_request([str(number) for number in range(1, self._asked + 1)])
        while self._engine.has_unfinished_requests():
            self._engine.step()


if __name__ == "__main__":
    main()
