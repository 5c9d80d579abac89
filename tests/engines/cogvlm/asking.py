"""Questions to the plugin inside vLLM, which is in a process of its own: nothing of it stays behind in pytest's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

ROOT = Path(__file__).parents[3]
SILENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


class Settings(msgspec.Struct, frozen=True):
    """How vLLM would run, or why it would not; `graphs` as the plugin leaves it, before a CPU has no graphs at all."""

    refusal: str | None = None
    mode: str = ""
    graphs: str = ""
    graphs_here: str = ""
    max_model_len: int = 0


class Start(msgspec.Struct, frozen=True, tag=True):
    """Would vLLM start on this checkpoint, with these options?"""

    model: str
    options: dict[str, Any]


class Home(msgspec.Struct, frozen=True):
    """Where a tensor goes: a parameter, its shape, and which part of it, for a parameter that packs several."""

    parameter: str
    shape: tuple[int, ...]
    shard: int | None


class Homes(msgspec.Struct, frozen=True):
    """Where tensors go, those that are not dropped, and the parameters' names."""

    tensors: dict[str, Home]
    parameters: list[str]


class Load(msgspec.Struct, frozen=True, tag=True):
    """Where does the model put tensors of these names? Nothing of its real size is allocated."""

    model: str
    names: list[str]


class Processed(msgspec.Struct, frozen=True):
    """Prompt tokens with a picture's among them, where those are (first, how many), and the pixels, flat."""

    tokens: list[int]
    span: tuple[int, int]
    shape: tuple[int, ...]
    pixels: list[float]


class Process(msgspec.Struct, frozen=True, tag=True):
    """What becomes of these tokens and this picture, PNG or the like?"""

    model: str
    tokens: list[int]
    picture: bytes


class Tables(msgspec.Struct, frozen=True):
    """The cosines and sines of all positions, [positions][width of a head]."""

    rows: list[list[float]]


class Rotate(msgspec.Struct, frozen=True, tag=True):
    """What are the rotary tables, with these options?"""

    model: str
    options: dict[str, Any]


class Layers(msgspec.Struct, frozen=True):
    """The linear layers by their places in the model, and those that are quantised by what they are told they are."""

    linear: list[str]
    quantised: list[str]


class Quantise(msgspec.Struct, frozen=True, tag=True):
    """Which layers are quantised on loading, with these options?"""

    model: str
    options: dict[str, Any]


Question = Start | Load | Process | Rotate | Quantise
Answer = TypeVar("Answer", Settings, Homes, Processed, Tables, Layers)


class Inside:
    """The process, which is asked line by line."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.engines.cogvlm.inside"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **SILENT},
            )

    def start(self, model: Path, **options: object) -> Settings:
        """How vLLM would run with these options."""
        return self._ask(Start(str(model), options), Settings)

    def load(self, model: Path, names: list[str]) -> Homes:
        """Where tensors of these names go."""
        return self._ask(Load(str(model), names), Homes)

    def process(self, model: Path, tokens: list[int], picture: bytes) -> Processed:
        """What becomes of a prompt and a picture."""
        return self._ask(Process(str(model), tokens, picture), Processed)

    def rotate(self, model: Path, **options: object) -> Tables:
        """The rotary tables with these options."""
        return self._ask(Rotate(str(model), options), Tables)

    def quantise(self, model: Path, **options: object) -> Layers:
        """Which layers are quantised with these options."""
        return self._ask(Quantise(str(model), options), Layers)

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()

    def _ask(self, question: Question, kind: type[Answer]) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(question) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._log.read_text()[-8000:]
        return msgspec.json.decode(line, type=kind)
