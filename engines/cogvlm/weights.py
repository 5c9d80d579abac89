"""Checks a checkpoint's weights by the headers of its safetensors files: nothing is loaded, no library is needed."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Final, NamedTuple

from engines.cogvlm.layout import AGAIN, Architecture, Shape
from engines.loading import LoadError, shown

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
MAX_INDEX: Final = 64 * 2**20  # bytes
MAX_HEADER: Final = 100 * 10**6  # bytes; the format's own bound
FLOATS: Final = {"BF16": 2, "F16": 2, "F32": 4}  # bytes of a number
SHOWN: Final = 3  # names in a sentence
# What odd files lead to.
UNREADABLE: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class _Tensor(NamedTuple):
    dtype: str
    shape: Shape


def check(folder: Path, architecture: Architecture, name: str, report: Callable[[float], None]) -> list[str]:
    """The names of the files of weights, once every tensor of the architecture is found in them as it should be.

    `name` is the checkpoint's, for people; `report` is told the fraction of the files that are checked.

    Raises:
        LoadError: something is missing, cut short, or not as it should be.
    """
    index = _index(folder, name)
    files = sorted(set(index.values()))
    lacking = [shown(file) for file in files if not (folder / file).is_file()]
    _refuse_any(f"{name} lacks {len(lacking)} of its {len(files)} files of weights", lacking)
    stored: dict[str, _Tensor] = {}
    misplaced: list[str] = []
    for done, file in enumerate(files, start=1):
        header = _header(folder / file, f"{shown(file)} of {name}")
        placed = {tensor for tensor, place in index.items() if place == file}
        stored |= {tensor: held for tensor, held in header.items() if tensor in placed}
        misplaced += map(shown, sorted(placed ^ header.keys()))
        report(done / len(files))
    _compare(stored, architecture, name)
    _refuse_any(f"{name} has its tensors in other files than its {INDEX} says", misplaced)
    return files


def named(folder: Path, name: str) -> list[str]:
    """The names of the files that a checkpoint's weights are to be in, whether they are there or not.

    Raises:
        LoadError: its index cannot be read.
    """
    return sorted(set(_index(folder, name).values())) if (folder / INDEX).is_file() else [SINGLE]


def _compare(stored: Mapping[str, _Tensor], architecture: Architecture, name: str) -> None:
    """Holds what is stored against what the architecture has."""
    needed = architecture.tensors()
    known = needed | architecture.optional_tensors()
    lacking = [key for key in needed if key not in stored]
    misshapen = [
        f"{shown(key)} is {shown(str(list(stored[key].shape)))} and not {list(shape)}"
        for key, shape in known.items()
        if key in stored and stored[key].shape != shape
    ]
    odd = [f"{shown(key)} is {shown(tensor.dtype)}" for key, tensor in stored.items() if tensor.dtype not in FLOATS]
    strange = [shown(key) for key in stored if key not in known]
    _refuse_any(f"{name} lacks {len(lacking)} of its architecture's {len(needed)} tensors", lacking)
    _refuse_any(f"{name} has tensors that CogVLM does not have", strange)
    _refuse_any(f"{name} has tensors of another shape than its config.json says", misshapen)
    _refuse_any(f"{name} has tensors that are neither bfloat16 nor float16 nor float32", odd)


def _refuse_any(sentence: str, wrong: Sequence[str]) -> None:
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise LoadError(f"{sentence}: {', '.join(wrong[:SHOWN])}{more}; {AGAIN}")


def _index(folder: Path, name: str) -> Mapping[str, str]:
    """The file in which each tensor is to be found."""
    if not (folder / INDEX).is_file():
        return dict.fromkeys(_single(folder, name), SINGLE)
    try:
        return _weight_map(folder / INDEX)
    except UNREADABLE:
        raise LoadError(f"the {INDEX} of {name} cannot be read; {AGAIN}") from None


def _weight_map(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_INDEX:
        raise ValueError(path.name)
    files = json.loads(path.read_bytes())["weight_map"]
    if not isinstance(files, dict) or not files or not all(map(_is_plain, files.values())):
        raise ValueError(path.name)
    return files


def _single(folder: Path, name: str) -> Iterable[str]:
    if not (folder / SINGLE).is_file():
        raise LoadError(f"{name} holds no weights as safetensors; {AGAIN}")
    return _header(folder / SINGLE, f"{SINGLE} of {name}")


def _is_plain(file: object) -> bool:
    """Whether it names a file of the same folder and nothing else."""
    return isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file


def _header(path: Path, name: str) -> dict[str, _Tensor]:
    """What a file says of its tensors, which all lie within it."""
    try:
        return _tensors(path)
    except UNREADABLE:
        raise LoadError(f"{name} is cut short or no safetensors file; {AGAIN}") from None


def _tensors(path: Path) -> dict[str, _Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise ValueError(path.name)
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    if size != 8 + length + max(map(_end, entries.values()), default=0):
        raise ValueError(path.name)
    return {key: _Tensor(str(entry["dtype"]), tuple(entry["shape"])) for key, entry in entries.items()}


def _end(entry: Mapping[str, Sequence[int]]) -> int:
    """Where a tensor's bytes end, which are as many as its shape wants."""
    begin, end = entry["data_offsets"]
    width = FLOATS.get(str(entry["dtype"]))
    if begin < 0 or end < begin or (width is not None and end - begin != width * prod(entry["shape"])):
        raise ValueError(f"bytes {begin} to {end}")
    return end
