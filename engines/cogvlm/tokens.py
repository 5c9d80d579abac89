"""Checks whether a tokenizer fits a checkpoint, by its files and without the libraries that would load it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from engines.cogvlm.layout import Architecture
from engines.loading import LoadError, shown

VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model")
SETTINGS: Final = "tokenizer_config.json"
FILES: Final = (*VOCABULARIES, SETTINGS, "special_tokens_map.json", "added_tokens.json")
MAX_FILE: Final = 64 * 2**20  # bytes
LARGEST: Final = 2**31  # more than any vocabulary
# What odd files lead to.
UNREADABLE: Final = (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer: a vocabulary and how it is used."""
    return (folder / SETTINGS).is_file() and any((folder / file).is_file() for file in VOCABULARIES)


def ensure_fits(folder: Path, architecture: Architecture, name: str) -> None:
    """Refuses a tokenizer of another vocabulary, or one with another first token; `name` is its own, for people.

    Raises:
        LoadError: it does not fit, or cannot be read.
    """
    try:
        ids = _vocabulary(folder)
        bos = _first_token(folder)
    except UNREADABLE:
        raise LoadError(f"{name} cannot be read; download it again") from None
    size, placeholder = max(ids.values(), default=-1) + 1, architecture.pad_token_id
    if size != architecture.vocab_size:
        _refuse(name, f"it has {size} tokens, the model {architecture.vocab_size}")
    if ids.get(bos) != architecture.bos_token_id:
        _refuse(name, f"'{shown(bos)}', with which its texts begin, is not token {architecture.bos_token_id}")
    if not any(at == placeholder and token[:1] + token[-1:] == "<>" for token, at in ids.items()):
        _refuse(name, f"token {placeholder}, which stands for pictures, is a word of it")


def _refuse(name: str, cause: str) -> None:
    raise LoadError(f"{name} is not this model's: {cause}; name the tokenizer that the model was published with")


def _first_token(folder: Path) -> str:
    """The token that begins every text, as the tokenizer's own configuration spells it."""
    token = _json(folder / SETTINGS)["bos_token"]
    return str(token["content"] if isinstance(token, dict) else token)


def _vocabulary(folder: Path) -> dict[str, int]:
    """The number of every token, those included that were added later."""
    ids = _numbered(folder)
    if not all(isinstance(token, str) and type(at) is int and 0 <= at < LARGEST for token, at in ids.items()):
        raise TypeError(folder.name)
    return ids


def _numbered(folder: Path) -> dict[Any, Any]:
    """The same, as the files have it."""
    described = _json(folder / "tokenizer.json")
    if described:
        words = described["model"]["vocab"]  # a table, or pairs with a score in their order
        ids = dict(words) if isinstance(words, dict) else {word[0]: at for at, word in enumerate(words)}
        return ids | {token["content"]: token["id"] for token in described.get("added_tokens", ())}
    ids = {piece: at for at, piece in enumerate(_pieces(_read(folder / "tokenizer.model")))}
    return {**ids, **_json(folder / "added_tokens.json")}


def _json(file: Path) -> Mapping[str, Any]:
    """A file's object; an empty one where there is no such file."""
    if not file.is_file():
        return {}
    content = json.loads(_read(file))
    if not isinstance(content, dict):
        raise TypeError(file.name)
    return content


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_FILE:
        raise ValueError(file.name)
    return file.read_bytes()


# --- SentencePiece ---

# Its models are messages of Protocol Buffers: field 1 is a piece, again and again, and field 1 of a piece its spelling.
_PIECE = _SPELLING = 1
_LONGEST_NUMBER = 10  # bytes
_MARK = 0x80


def _pieces(model: bytes) -> Iterator[str]:
    for field, piece in _fields(model):
        if field == _PIECE:
            yield dict(_fields(piece))[_SPELLING].decode()


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and the bytes of each field; of a number there are none, for none is of use here."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        begin, end = at, at
        match key & 7:
            case 0:
                _, end = _number(message, at)
            case 1:
                end = at + 8
            case 2:
                length, begin = _number(message, at)
                end = begin + length
            case 5:
                end = at + 4
            case _:
                raise ValueError("no Protocol Buffers")
        yield key >> 3, message[begin:end]
        at = end


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A number, of seven bits a byte with a mark on all but the last, and where the next thing begins."""
    value = 0
    for shift in range(_LONGEST_NUMBER):
        byte = message[at + shift]
        value |= (byte & 0x7F) << 7 * shift
        if byte < _MARK:
            return value, at + shift + 1
    raise ValueError("no Protocol Buffers")
