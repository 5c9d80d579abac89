"""Makes a checkpoint of CogVLM into a folder that vLLM can serve: `python -m engines.cogvlm.prepare --help`.

CogVLM is published with code that nobody should have to run, with a configuration that only this code understands, the
first generation without a tokenizer, and none with a chat template. The prepared folder has all of it in plain files;
the weights are linked, not copied.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from engines.cogvlm import layout, tokens, weights
from engines.cogvlm.layout import Architecture, Generation
from engines.loading import LoadError, Report, unreported
from engines.source import DOWNLOADED, configuration

VERSION: Final = 1  # of what is made here: what was made by another is made again
PREPARED: Final = 0.85  # of all loading, once the folder is there
TOKENIZERS: Final = {  # the names by which the two are published
    Generation.COGVLM: "lmsys/vicuna-7b-v1.5",
    Generation.COGVLM2: "zai-org/cogvlm2-llama3-chat-19B",
}
MODELS: Final = {"cogvlm-chat": Generation.COGVLM, "cogvlm2-llama3-chat-19b": Generation.COGVLM2}
TEMPLATES: Final = {Generation.COGVLM: "cogvlm.jinja", Generation.COGVLM2: "cogvlm2.jinja"}
NOT_FOR_VLLM: Final = ("auto_map", "chat_template")  # in a tokenizer's configuration: others' code, another template


def prepare(
    source: Path, tokenizer: Path | None, out: Path, *, name: str = "the checkpoint", report: Report = unreported
) -> None:
    """Makes the folder `out` of a published checkpoint; either all of it is there in the end or nothing.

    `tokenizer` is needed where the checkpoint has none of its own. What was prepared of the same weights is replaced.
    `name` is the checkpoint's, for people.

    Raises:
        LoadError: the checkpoint or the tokenizer cannot be used, or `out` is in the way.
    """
    config = configuration(source, name)
    if layout.is_prepared(config):
        raise LoadError(f"{name} is prepared already; use it as it is")
    architecture = layout.read(config, name)
    words = _tokenizer(source, tokenizer, architecture, name)
    checked = weights.check(
        source, architecture, name, lambda part: report("prepare", DOWNLOADED + (PREPARED - DOWNLOADED) * part)
    )
    links = {file: (source / file).resolve() for file in checked}
    _ensure_free(out, links)
    try:
        _build(source, words, out, architecture, links)
    except OSError as error:
        raise LoadError(f"the prepared checkpoint could not be written ({error.strerror}); make room for it") from error


def ensure_intact(folder: Path, name: str) -> None:
    """Refuses a prepared folder whose weights are not where they were; `name` is the checkpoint's, for people.

    Raises:
        LoadError: as said.
    """
    if not all(file.exists() for file in folder.glob("*.safetensors")):
        raise LoadError(f"the weights of {name} are no longer where they were when it was prepared; prepare it again")


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engines.cogvlm.prepare", allow_abbrev=False)
    parser.add_argument("--model", required=True, help=f"what it has to be: {' or '.join(MODELS)}")
    parser.add_argument("--source", type=Path, required=True, help="the folder of the checkpoint as it is published")
    parser.add_argument("--tokenizer", type=Path, help="the folder of its tokenizer, when that is another")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    options = parser.parse_args(arguments)
    try:
        _ensure_generation(options.model, options.source)
        prepare(options.source, options.tokenizer, options.out, name="the source")
    except LoadError as error:
        sys.stderr.write(f"altgate: {error}\n")
        return 1
    return 0


def _ensure_generation(model: str, source: Path) -> None:
    if model not in MODELS:
        raise LoadError(f"the model '{model}' needs no preparation; only {' and '.join(MODELS)} do")
    generation = layout.read(configuration(source, "the source"), "the source").generation
    if generation is not MODELS[model]:
        is_ = next(known for known, its in MODELS.items() if its is generation)
        raise LoadError(f"the source is of the other generation, that of {is_}; name that model, or another source")


def _tokenizer(source: Path, given: Path | None, architecture: Architecture, name: str) -> Path:
    """The folder of the tokenizer, which fits."""
    folder = given or source
    if not tokens.is_tokenizer(folder):
        wanted = TOKENIZERS[architecture.generation]
        whose = "the folder given as its tokenizer" if given else name
        raise LoadError(f"{whose} holds no tokenizer, which is published as {wanted}; name its folder as `tokenizer`")
    tokens.ensure_fits(folder, architecture, f"the tokenizer of {name}")
    return folder


def _ensure_free(out: Path, links: dict[str, Path]) -> None:
    """Refuses to replace anything but what was prepared of the same weights."""
    is_empty = not out.is_symlink() and (not out.exists() or (out.is_dir() and not any(out.iterdir())))
    if not is_empty and not (_is_prepared(out) and _links(out) == links):
        raise LoadError("something else is in the way of the prepared checkpoint; remove it, or name another folder")


def _is_prepared(folder: Path) -> bool:
    try:
        return layout.is_prepared(configuration(folder, folder.name))
    except LoadError:
        return False


def _links(folder: Path) -> dict[str, Path]:
    return {file.name: file.resolve() for file in folder.glob("*.safetensors")}


def _build(source: Path, tokenizer: Path, out: Path, architecture: Architecture, links: dict[str, Path]) -> None:
    """Makes the folder beside its place and moves it there when it is finished."""
    out.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        made = workshop / "made"
        made.mkdir()
        _fill(made, source, tokenizer, architecture, links)
        with suppress(FileNotFoundError):
            out.rename(workshop / "before")
        made.rename(out)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _fill(made: Path, source: Path, tokenizer: Path, architecture: Architecture, links: dict[str, Path]) -> None:
    for file, target in links.items():
        (made / file).symlink_to(target)
    if (source / weights.INDEX).is_file():
        shutil.copyfile(source / weights.INDEX, made / weights.INDEX)
    for file in tokens.FILES:
        if (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, made / file)
    settings = json.loads((made / tokens.SETTINGS).read_bytes())
    _write(made / tokens.SETTINGS, {key: value for key, value in settings.items() if key not in NOT_FOR_VLLM})
    template = Path(__file__).with_name(TEMPLATES[architecture.generation])
    shutil.copyfile(template, made / "chat_template.jinja")
    _write(made / "generation_config.json", _generation(architecture))
    _write(made / "config.json", architecture.configuration())


def _generation(architecture: Architecture) -> dict[str, Any]:
    """Greedy, as its authors' programs decode; a request may ask for chance."""
    return {
        "bos_token_id": architecture.bos_token_id,
        "eos_token_id": architecture.eos_token_id,
        "pad_token_id": architecture.pad_token_id,
        "do_sample": False,
        "temperature": 0.0,
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
