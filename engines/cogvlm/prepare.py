"""Makes a checkpoint of CogVLM into a folder that vLLM can serve: `python -m engines.cogvlm.prepare --help`.

CogVLM is published with code that nobody should have to run, with a configuration that only this code understands, the
first generation without a tokenizer, and none with a chat template. The prepared folder has all of it in plain files;
the weights are linked, not copied.
"""

import argparse
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from engines.cogvlm import layout, tokens, weights
from engines.cogvlm.layout import Architecture, Generation
from engines.loading import LoadError, Report, unreported
from engines.lock import held
from engines.source import DOWNLOADED, configuration

PREPARED: Final = 0.85  # of all loading, once the folder is there
TOKENIZERS: Final = {  # the names by which the two are published
    Generation.COGVLM: "lmsys/vicuna-7b-v1.5",
    Generation.COGVLM2: "zai-org/cogvlm2-llama3-chat-19B",
}
MODELS: Final = {"cogvlm-chat": Generation.COGVLM, "cogvlm2-llama3-chat-19b": Generation.COGVLM2}
TEMPLATES: Final = {Generation.COGVLM: "cogvlm.jinja", Generation.COGVLM2: "cogvlm2.jinja"}
TEMPLATE: Final = "chat_template.jinja"
GENERATION: Final = "generation_config.json"
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
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
    made_of = _checked(source, tokenizer, name, report)
    place = Path(os.path.abspath(out))  # noqa: PTH100 - resolving would follow a link in its place
    with _alone(place, "name another folder"):
        _ensure_free(place, made_of.links)
        _build(made_of, place)


def ensure_prepared(source: Path, tokenizer: Path | None, out: Path, *, name: str, report: Report) -> None:
    """The same for a folder of Altgate's own cache: one that is there already is kept, unless it is damaged.

    Whoever else is at it is waited for.

    Raises:
        LoadError: as above.
    """
    if _fault(out, name) is None:
        return
    with _alone(out, "set XDG_CACHE_HOME to another folder"):
        if _fault(out, name) is not None:
            _build(_checked(source, tokenizer, name, report), out)


def ensure_intact(folder: Path, name: str) -> None:
    """Refuses a prepared folder in which something is missing; `name` is the checkpoint's, for people.

    Raises:
        LoadError: as said.
    """
    fault = _fault(folder, name)
    if fault is not None:
        raise LoadError(f"{fault}; prepare it again")


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


class _MadeOf(NamedTuple):
    """What a prepared folder is made of, which was found good: `links` are the names of its weights and where they are.

    `tokenizer` is its folder, `endings` are the tokens that end an answer, `weight_map` is the index of the weights.
    """

    tokenizer: Path
    architecture: Architecture
    endings: list[int]
    weight_map: Path | None
    links: dict[str, Path]


def _checked(source: Path, tokenizer: Path | None, name: str, report: Report) -> _MadeOf:
    architecture = layout.read(configuration(source, name), name)
    words = _tokenizer(source, tokenizer, architecture, name)
    files = weights.check(
        source, architecture, name, lambda part: report("prepare", DOWNLOADED + (PREPARED - DOWNLOADED) * part)
    )
    return _MadeOf(
        tokenizer=words,
        architecture=architecture,
        endings=architecture.endings(_published_generation(source, name), name),
        weight_map=source / weights.INDEX if (source / weights.INDEX).is_file() else None,
        links={file: (source / file).resolve() for file in files},
    )


def _tokenizer(source: Path, given: Path | None, architecture: Architecture, name: str) -> Path:
    """The folder of the tokenizer, which fits."""
    folder = given or source
    if not tokens.is_tokenizer(folder):
        wanted = TOKENIZERS[architecture.generation]
        whose = "the folder given as its tokenizer" if given else name
        raise LoadError(f"{whose} holds no tokenizer, which is published as {wanted}; name its folder as `tokenizer`")
    tokens.ensure_fits(folder, architecture, f"the tokenizer of {name}")
    return folder


def _published_generation(source: Path, name: str) -> dict[str, Any]:
    """The checkpoint's generation_config.json; an empty one where there is none."""
    file = source / GENERATION
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise LoadError(f"the {GENERATION} of {name} cannot be read; {layout.AGAIN}")
    return config


def _fault(folder: Path, name: str) -> str | None:
    """What is wrong with a prepared folder, or with one that is not there; None where nothing is."""
    try:
        config = configuration(folder, name)
        files = weights.named(folder, name)
    except LoadError:
        return f"the prepared checkpoint of {name} cannot be read"
    if not layout.is_prepared(config) or config[layout.MARK] != layout.VERSION:
        return f"{name} was prepared by another version of Altgate"
    if not all((folder / file).is_file() for file in files):
        return f"the weights of {name} are no longer where they were when it was prepared"
    if not tokens.is_tokenizer(folder) or not all((folder / file).is_file() for file in (GENERATION, TEMPLATE)):
        return f"{name} was prepared, and has lost some of its files since"
    return None


@contextmanager
def _alone(out: Path, elsewhere: str) -> Iterator[None]:
    """Lets nobody else make `out` meanwhile; what cannot be written is told, with the remedy where it is not room."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with held(out.with_name(f".{out.name}.lock")):
            yield
    except OSError as error:
        remedy = "make room for it" if error.errno in FULL else elsewhere
        raise LoadError(f"the prepared checkpoint could not be written ({error.strerror}); {remedy}") from error


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


def _build(made_of: _MadeOf, out: Path) -> None:
    """Makes the folder beside its place and moves it there when it is finished. Nobody else may be at it."""
    workshop = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(workshop, ignore_errors=True)  # a preparation was killed
    workshop.mkdir(mode=0o700)
    try:
        made = workshop / "made"
        made.mkdir()
        _fill(made, made_of)
        with suppress(FileNotFoundError):
            out.rename(workshop / "before")
        made.rename(out)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _fill(made: Path, made_of: _MadeOf) -> None:
    for file, target in made_of.links.items():
        (made / file).symlink_to(target)
    if made_of.weight_map is not None:
        shutil.copyfile(made_of.weight_map, made / weights.INDEX)
    for file in tokens.FILES:
        if (made_of.tokenizer / file).is_file():
            shutil.copyfile(made_of.tokenizer / file, made / file)
    settings = json.loads((made / tokens.SETTINGS).read_bytes())
    _write(made / tokens.SETTINGS, {key: value for key, value in settings.items() if key not in NOT_FOR_VLLM})
    template = Path(__file__).with_name(TEMPLATES[made_of.architecture.generation])
    shutil.copyfile(template, made / TEMPLATE)
    _write(made / GENERATION, _generation(made_of))
    _write(made / "config.json", made_of.architecture.configuration())


def _generation(made_of: _MadeOf) -> dict[str, Any]:
    """Greedy, as its authors' programs decode; a request may ask for chance."""
    return {
        "bos_token_id": made_of.architecture.bos_token_id,
        "eos_token_id": made_of.endings if len(made_of.endings) > 1 else made_of.endings[0],
        "pad_token_id": made_of.architecture.pad_token_id,
        "do_sample": False,
        "temperature": 0.0,
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
