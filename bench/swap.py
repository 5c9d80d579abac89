"""How long a swap takes: `python -m bench.swap`, with `--vllm` between two tiny models on vLLM instead of two on BLIP.

With one place for loaded engines, two models are asked in turn. Each answer waits until the other engine has gone and
its own has been loaded; an answer of a loaded engine stands beside it. Waking needs a GPU and is not measured here.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests import pictures
from tests.engines.vllm import tiny
from tests.flows.raw import chat
from tests.services import Server, running_server

ROOT = Path(__file__).parents[1]
BLIP = """
[models.{name}]
engine = "blip"
source = "{folder}"
picture_size = 96
args = {{ dtype = "float32", threads = 1 }}
"""
VLLM = """
[models.{name}]
engine = "vllm"
source = "{folder}"
max_model_len = 1024
args = {{ enforce-eager = true, dtype = "float32", kv-cache-memory-bytes = 67108864 }}
"""


def main() -> None:
    """Prints the two times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", action="store_true", help="between two models on vLLM")
    parser.add_argument("--rounds", type=int, default=3, help="swaps there and back (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sections = _vllm(Path(name)) if options.vllm else _blip()
        settings = '[engines]\npreload = []\ncold_start_wait = "5m"\n' + sections
        with running_server(Path(name), settings=settings) as server:
            _seconds(server, "one")
            swaps, loaded = [], []
            for model in ("two", "one") * options.rounds:
                swaps.append(_seconds(server, model))
                loaded.append(_seconds(server, model))
    print(f"an answer after a swap {statistics.median(swaps):6.2f} s ({min(swaps):.2f} to {max(swaps):.2f})")
    print(f"of a loaded engine     {statistics.median(loaded):6.2f} s; medians of {len(swaps)}")


def _blip() -> str:
    checkpoint = ROOT / "engines/demo/checkpoint"
    return "".join(BLIP.format(name=name, folder=checkpoint) for name in ("one", "two"))


def _vllm(folder: Path) -> str:
    for name, make in (("one", tiny.gemma3), ("two", tiny.internvl)):
        (folder / name).mkdir()
        make(folder / name)
    return "".join(VLLM.format(name=name, folder=folder / name) for name in ("one", "two"))


def _seconds(server: Server, model: str) -> float:
    """How long an answer takes that no cache has."""
    messages = [pictures.message(pictures.data_url(pictures.png(pictures.SCENES[0])))]
    started = time.perf_counter()
    answer = chat(server, {"cache-control": "no-store"}, model=model, messages=messages, max_tokens=8)
    assert "choices" in answer.json(), answer.body
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
