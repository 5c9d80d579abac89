"""A published checkpoint becomes a folder that vLLM can serve, or one sentence says why not."""

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engines.cogvlm import weights
from engines.cogvlm.prepare import ensure_intact, main, prepare
from engines.loading import LoadError
from tests.engines.cogvlm import tiny

ROOT = Path(__file__).parents[3]
SECOND = "model-00002-of-00002.safetensors"
NORM = "model.norm.weight"


class Case(NamedTuple):
    """A published checkpoint that a test may spoil, and where it is to be prepared."""

    source: Path
    tokenizer: Path
    out: Path


@pytest.fixture
def first(published: dict[str, tiny.Published], tmp_path: Path) -> Case:
    """CogVLM, its tokenizer in a folder of its own."""
    checkpoint, tokenizer = published["cogvlm"].checkpoint, published["cogvlm"].tokenizer
    assert tokenizer is not None
    source = shutil.copytree(checkpoint, tmp_path / "source")
    return Case(source, shutil.copytree(tokenizer, tmp_path / "tokenizer"), tmp_path / "out")


@pytest.fixture
def second(published: dict[str, tiny.Published], tmp_path: Path) -> Case:
    """CogVLM2, its tokenizer among its files."""
    source = shutil.copytree(published["cogvlm2"].checkpoint, tmp_path / "source2")
    return Case(source, source, tmp_path / "out2")


def read(file: Path) -> dict[str, Any]:
    """A JSON file's object."""
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content


def change(file: Path, **fields: Any) -> None:
    """Changes fields of a JSON file; None takes one away."""
    kept = {key: value for key, value in {**read(file), **fields}.items() if value is not None}
    file.write_text(json.dumps(kept))


def rewrite_header(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Changes what a safetensors file says of its tensors, and leaves their bytes."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def file_of(source: Path, tensor: str) -> Path:
    """The file that holds a tensor."""
    return source / str(read(source / weights.INDEX)["weight_map"][tensor])


def refused(case: Case) -> str:
    """The sentence that a preparation ends with, which names no path and leaves nothing behind."""
    beside = sorted(case.out.parent.iterdir())
    with pytest.raises(LoadError) as told:
        prepare(case.source, case.tokenizer, case.out, name="x/y")
    assert sorted(case.out.parent.iterdir()) == beside
    assert str(case.out.parent) not in str(told.value)
    return str(told.value)


# --- what is made ---


def test_the_folder_has_all_that_is_needed(first: Case) -> None:
    """Links to the weights, their index, the tokenizer, a template, two configurations; and no code."""
    prepare(first.source, first.tokenizer, first.out)

    files = {file.name: file for file in first.out.iterdir()}
    assert files.keys() == {
        *("model-00001-of-00002.safetensors", SECOND, "model.safetensors.index.json"),
        *("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
        *("config.json", "generation_config.json", "chat_template.jinja"),
    }
    assert {name for name, file in files.items() if file.is_symlink()} == {"model-00001-of-00002.safetensors", SECOND}
    assert files[SECOND].resolve() == (first.source / SECOND).resolve()
    assert read(files["config.json"])["model_type"] == "cogvlm"
    assert read(files["generation_config.json"])["eos_token_id"] == 2
    assert oct(first.out.stat().st_mode)[-3:] == oct(first.source.stat().st_mode)[-3:]


def test_the_second_generation_brings_its_tokenizer(second: Case) -> None:
    """It is taken from the checkpoint, without what other programs have put into its configuration."""
    change(second.source / "tokenizer_config.json", chat_template="{{ 'other' }}", auto_map={"AutoTokenizer": "x.y"})

    prepare(second.source, None, second.out)

    settings = read(second.out / "tokenizer_config.json")
    assert settings["bos_token"] == "<|begin_of_text|>"
    assert settings.keys().isdisjoint({"chat_template", "auto_map"})
    assert (second.out / "tokenizer.json").read_bytes() == (second.source / "tokenizer.json").read_bytes()


def test_links_lead_through_the_hubs_own(first: Case, tmp_path: Path) -> None:
    """The hub's cache is links to blobs; ours lead to the blobs themselves."""
    blob = tmp_path / "blob"
    (first.source / SECOND).rename(blob)
    (first.source / SECOND).symlink_to(blob)

    prepare(first.source, first.tokenizer, first.out)

    assert (first.out / SECOND).readlink() == blob


def test_one_file_of_weights_needs_no_index(second: Case) -> None:
    """As smaller checkpoints are saved."""
    import torch  # noqa: F401, PLC0415 - safetensors.torch needs it
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    parts = [load_file(file) for file in sorted(second.source.glob("*.safetensors"))]
    for file in (*second.source.glob("*.safetensors"), second.source / weights.INDEX):
        file.unlink()
    save_file(parts[0] | parts[1], second.source / weights.SINGLE)

    prepare(second.source, None, second.out)

    assert (second.out / weights.SINGLE).is_symlink()
    assert not (second.out / weights.INDEX).exists()


def test_progress_is_told(first: Case) -> None:
    """File by file, to the point at which the weights can be loaded."""
    told: list[tuple[str, float]] = []

    prepare(first.source, first.tokenizer, first.out, report=lambda *step: told.append(step))

    assert [(phase, round(part, 3)) for phase, part in told] == [("prepare", 0.825), ("prepare", 0.85)]


# --- what is refused ---


def spoil_missing(case: Case) -> None:
    """Takes a tensor out of the index and its file."""
    index = read(case.source / weights.INDEX)["weight_map"]
    rewrite_header(case.source / index.pop(NORM), lambda header: header.pop(NORM))
    change(case.source / weights.INDEX, weight_map=index)


def spoil_place(case: Case) -> None:
    """Lets the index point to the wrong file."""
    index = read(case.source / weights.INDEX)["weight_map"]
    other = next(file for file in index.values() if file != index[NORM])
    change(case.source / weights.INDEX, weight_map={**index, NORM: other})


def spoil_shape(case: Case) -> None:
    """Lets the file say another shape of as many numbers."""
    rewrite_header(file_of(case.source, NORM), lambda header: header[NORM].update(shape=[8, 8]))


def spoil_type(case: Case) -> None:
    """Lets the file say that the numbers are whole."""
    rewrite_header(file_of(case.source, NORM), lambda header: header[NORM].update(dtype="I16"))


def spoil_bytes(case: Case) -> None:
    """Lets a tensor have more bytes than its shape has."""
    rewrite_header(file_of(case.source, NORM), lambda header: header[NORM].update(dtype="F32"))


def spoil_file(case: Case) -> None:
    """Removes a file of weights."""
    (case.source / SECOND).unlink()


def spoil_end(case: Case) -> None:
    """Cuts a file of weights short by a byte."""
    (case.source / SECOND).write_bytes((case.source / SECOND).read_bytes()[:-1])


def spoil_start(case: Case) -> None:
    """Leaves in a file's place what version control keeps of large files."""
    (case.source / SECOND).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def spoil_nesting(case: Case) -> None:
    """Makes a header that no reader of JSON can follow."""
    text = b"[" * 100_000
    (case.source / SECOND).write_bytes(struct.pack("<Q", len(text)) + text)


def spoil_index(case: Case) -> None:
    """Lets the index lead out of the folder."""
    change(case.source / weights.INDEX, weight_map={NORM: "../model.safetensors"})


def spoil_weights(case: Case) -> None:
    """Leaves no weights at all."""
    for file in (*case.source.glob("*.safetensors"), case.source / weights.INDEX):
        file.unlink()


def add_tensor(case: Case, name: str, place: str | None) -> None:
    """Puts a small tensor at the end of the second file, and into the index at `place`."""

    def edit(header: dict[str, Any]) -> None:
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
        header[name] = {"dtype": "BF16", "shape": [2], "data_offsets": [end, end + 4]}

    rewrite_header(case.source / SECOND, edit)
    with (case.source / SECOND).open("ab") as file:
        file.write(bytes(4))
    if place is not None:
        index = read(case.source / weights.INDEX)["weight_map"]
        change(case.source / weights.INDEX, weight_map={**index, name: place})


def spoil_stranger(case: Case) -> None:
    """Adds a tensor that the index does not name."""
    add_tensor(case, "model.extra", None)


def spoil_twin(case: Case) -> None:
    """Adds a tensor that the other file has too, where the index says it is."""
    add_tensor(case, "lm_head.weight", None)


def spoil_name(case: Case) -> None:
    """Adds a tensor whose name fills a screen, in more than one line."""
    add_tensor(case, "a\n" * 100_000, SECOND)


def spoil_file_name(case: Case) -> None:
    """Lets the index name a file in two lines."""
    index = read(case.source / weights.INDEX)["weight_map"]
    change(case.source / weights.INDEX, weight_map={**index, "x": "two\nlines.safetensors"})


def spoil_number(case: Case) -> None:
    """Lets a shape be larger than any number."""
    rewrite_header(file_of(case.source, NORM), lambda header: header[NORM].update(shape=[10**400, 1.5]))


def spoil_layers(case: Case) -> None:
    """Lets the configuration say fewer layers than there are."""
    change(case.source / "config.json", num_hidden_layers=2)


def spoil_configuration(case: Case) -> None:
    """Makes it another model."""
    change(case.source / "config.json", architectures=["CogVLMVideoForCausalLM"])


def spoil_quantised(case: Case) -> None:
    """Makes it one of the int4 repositories."""
    change(case.source / "config.json", quantization_config={"load_in_4bit": True})


def spoil_prepared(case: Case) -> None:
    """Makes it one that was prepared already."""
    change(case.source / "config.json", model_type="cogvlm", altgate=1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoil_missing, f"lacks 1 of its architecture's 75 tensors: {NORM}; download"),
        (spoil_place, f"lacks 1 of its architecture's 75 tensors: {NORM}; download"),
        (
            spoil_shape,
            f"x/y has tensors of another shape than its config.json says: {NORM} is [8, 8] and not [64]; download",
        ),
        (spoil_type, f"that are neither bfloat16 nor float16 nor float32: {NORM} is I16; download"),
        (spoil_bytes, "of x/y is cut short or no safetensors file; download"),
        (spoil_file, f"x/y lacks 1 of its 2 files of weights: {SECOND}; download"),
        (spoil_end, f"{SECOND} of x/y is cut short or no safetensors file; download"),
        (spoil_start, f"{SECOND} of x/y is cut short or no safetensors file; download"),
        (spoil_nesting, f"{SECOND} of x/y is cut short or no safetensors file; download"),
        (spoil_index, "the model.safetensors.index.json of x/y cannot be read; download"),
        (spoil_weights, "x/y holds no weights as safetensors; download"),
        (spoil_stranger, "in other files than its model.safetensors.index.json says: model.extra; download"),
        (spoil_twin, "in other files than its model.safetensors.index.json says: lm_head.weight; download"),
        (spoil_name, f"x/y has tensors that CogVLM does not have: {(chr(97) + chr(92) + 'n') * 33}a...; download"),
        (spoil_file_name, "x/y lacks 1 of its 3 files of weights: two\\nlines.safetensors; download"),
        (spoil_number, "of x/y is cut short or no safetensors file; download"),
        (spoil_layers, "x/y has tensors that CogVLM does not have: model.layers.2."),
        (spoil_configuration, "x/y is made for videos"),
        (spoil_quantised, "x/y is quantised already"),
        (spoil_prepared, "x/y is prepared already; use it as it is"),
    ],
)
def test_a_bad_checkpoint_is_refused(first: Case, spoil: Callable[[Case], None], sentence: str) -> None:
    """Whatever is wrong is named, the first few of many and how many there are."""
    spoil(first)

    assert sentence in refused(first)


def test_many_faults_are_counted(first: Case) -> None:
    """A half of the checkpoint that is not there is one sentence all the same."""
    index = read(first.source / weights.INDEX)["weight_map"]
    kept = {name: file for name, file in index.items() if file != SECOND}
    change(first.source / weights.INDEX, weight_map=kept)

    sentence = refused(first)

    assert f"lacks {len(index) - len(kept)} of its architecture's 75 tensors" in sentence
    assert f" and {len(index) - len(kept) - 3} more; download" in sentence
    assert len(sentence) < 400


def test_the_first_generation_needs_a_tokenizer(first: Case) -> None:
    """It is published without one: the sentence says which to take."""
    with pytest.raises(LoadError, match=r"x/y holds no tokenizer, which is published as lmsys/vicuna-7b-v1\.5; name"):
        prepare(first.source, None, first.out, name="x/y")


def test_a_folder_without_a_tokenizer_is_none(first: Case) -> None:
    """What was given as one is looked at."""
    (first.tokenizer / "tokenizer.model").unlink()

    assert "the folder given as its tokenizer holds no tokenizer" in refused(first)


def test_another_models_tokenizer_is_refused(first: Case, second: Case) -> None:
    """By the size of its vocabulary, be it smaller or larger."""
    assert "it has 316 tokens, the model 420" in refused(first._replace(tokenizer=second.tokenizer))
    assert "it has 420 tokens, the model 316" in refused(second._replace(tokenizer=first.tokenizer))


def test_a_tokenizer_that_begins_otherwise_is_refused(first: Case) -> None:
    """The first token has to be the model's."""
    change(first.tokenizer / "tokenizer_config.json", bos_token="</s>")

    assert "'</s>', with which its texts begin, is not token 1;" in refused(first)


def test_a_placeholder_that_is_a_word_is_refused(second: Case) -> None:
    """What stands for pictures has to stand for nothing else."""
    change(second.source / "config.json", pad_token_id=5)

    assert "token 5, which stands for pictures, is a word of it" in refused(second)


@pytest.mark.parametrize("content", [b"\x0a\xff\xff\xff", b"\xff" * 20, b"\x0b", b""])
def test_a_broken_vocabulary_is_refused(first: Case, content: bytes) -> None:
    """Cut short, garbage or empty."""
    (first.tokenizer / "tokenizer.model").write_bytes(content)

    assert "the tokenizer of x/y " in refused(first)


@pytest.mark.parametrize(
    "vocabulary",
    [{"a": "b"}, {"a": 10**400}, {"a": -1}, {"a": 1.5}, [[number, 0] for number in range(316)], [[]]],
)
def test_an_odd_vocabulary_is_refused(second: Case, vocabulary: object) -> None:
    """Tokens that are no words, or have no number."""
    model = read(second.source / "tokenizer.json")["model"]
    change(second.source / "tokenizer.json", model={**model, "vocab": vocabulary})

    assert "the tokenizer of x/y cannot be read; download it again" in refused(second)


def test_a_first_token_is_cut_short_in_a_sentence(first: Case) -> None:
    """However long it is in the file."""
    change(first.tokenizer / "tokenizer_config.json", bos_token="x" * 100_000)

    assert f"'{'x' * 100}...', with which its texts begin" in refused(first)


def test_half_a_character_does_not_matter(first: Case) -> None:
    """JSON can say what no text can hold."""
    change(first.tokenizer / "tokenizer_config.json", extra="\ud800")

    prepare(first.source, first.tokenizer, first.out)

    assert read(first.out / "tokenizer_config.json")["extra"] == "\ud800"


def test_every_token_that_ends_an_answer_ends_it(second: Case) -> None:
    """Llama 3 has one for the end of a turn, which often stands in generation_config.json alone."""
    change(second.source / "generation_config.json", eos_token_id=[5, 7])
    eos = read(second.source / "config.json")["eos_token_id"]

    prepare(second.source, None, second.out)

    assert read(second.out / "generation_config.json")["eos_token_id"] == [eos, 5, 7]


def test_a_checkpoint_need_not_say_how_it_generates(second: Case) -> None:
    """Then config.json says it alone."""
    (second.source / "generation_config.json").unlink()

    prepare(second.source, None, second.out)

    eos = read(second.source / "config.json")["eos_token_id"]
    assert read(second.out / "generation_config.json")["eos_token_id"] == eos


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("generation_config.json", '{"eos_token_id": 316}', "x/y ends its answers with a token that it does not have"),
        ("generation_config.json", '{"eos_token_id": "x"}', "generation_config.json of x/y has no usable 'eos_token_"),
        ("generation_config.json", "[" * 100_000, "the generation_config.json of x/y cannot be read; download"),
        ("config.json", "[" * 100_000, "the config.json of x/y cannot be read; download"),
    ],
)
def test_an_odd_configuration_is_refused(second: Case, file: str, content: str, sentence: str) -> None:
    """In a sentence, as all else."""
    (second.source / file).write_text(content)

    assert sentence in refused(second)


# --- what is in the way, and what breaks off ---


def test_what_was_prepared_of_the_same_weights_is_replaced(first: Case) -> None:
    """Preparing again mends what was changed."""
    prepare(first.source, first.tokenizer, first.out)
    (first.out / "chat_template.jinja").write_text("other")

    prepare(first.source, first.tokenizer, first.out)

    assert "Question: " in (first.out / "chat_template.jinja").read_text()
    assert not list(first.out.parent.glob(".out*"))


def test_an_empty_folder_is_not_in_the_way(first: Case) -> None:
    """Who makes the folder beforehand means it to be used."""
    first.out.mkdir()

    prepare(first.source, first.tokenizer, first.out)

    assert (first.out / "config.json").is_file()


def test_the_current_folder_can_be_the_place(first: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one, by its shortest name."""
    first.out.mkdir()
    monkeypatch.chdir(first.out)

    prepare(first.source, first.tokenizer, Path())

    ensure_intact(first.out, "x/y")


def test_many_at_once_wait_for_each_other(first: Case) -> None:
    """None of them fails, and what the last one leaves is whole."""
    everybody = threading.Barrier(6)

    def one(_: int) -> None:
        everybody.wait()
        prepare(first.source, first.tokenizer, first.out)

    for _ in range(5):
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(one, range(6)))

        ensure_intact(first.out, "x/y")
        assert not list(first.out.parent.glob(".out*"))
        shutil.rmtree(first.out)


def put_file(case: Case) -> None:
    """A file."""
    case.out.write_text("mine")


def put_folder(case: Case) -> None:
    """A folder with something in it."""
    case.out.mkdir()
    (case.out / "mine").write_text("mine")


def put_snapshot(case: Case) -> None:
    """Links to the very same weights, but not made here."""
    case.out.mkdir()
    for file in case.source.iterdir():
        (case.out / file.name).symlink_to(file)


def put_other(case: Case) -> None:
    """A checkpoint prepared of other weights."""
    copy = shutil.copytree(case.source, case.out.parent / "other")
    prepare(copy, case.tokenizer, case.out)


def put_dangling(case: Case) -> None:
    """A link that leads nowhere."""
    case.out.symlink_to(case.out.parent / "nowhere")


@pytest.mark.parametrize("put", [put_file, put_folder, put_snapshot, put_other, put_dangling])
def test_anything_else_in_the_way_stays(first: Case, put: Callable[[Case], None]) -> None:
    """Nothing is overwritten that was not made here of the same weights."""
    put(first)

    assert "something else is in the way" in refused(first)


def test_a_preparation_that_is_killed_leaves_nothing_that_looks_finished(first: Case) -> None:
    """There is no folder of that name until all of it is there, and the next preparation is not hindered."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from engines.cogvlm import prepare\n"
        "prepare._generation = lambda architecture: os._exit(9)\n"
        "prepare.prepare(*map(Path, sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, *map(str, first)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
    assert not first.out.exists()
    assert list(first.out.parent.glob(".out.*/made/*.safetensors"))

    prepare(first.source, first.tokenizer, first.out)

    ensure_intact(first.out, "x/y")
    assert not list(first.out.parent.glob(".out*"))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "could not be written (No space left on device); make room for it"),
        (errno.EACCES, "could not be written (Permission denied); name another folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_told(
    first: Case, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    """By the system's word for it and with what helps, and nothing is left."""

    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "copyfile", fails)

    assert sentence in refused(first)


def test_weights_that_have_moved_are_noticed(first: Case) -> None:
    """A prepared folder is only as good as what it links to."""
    prepare(first.source, first.tokenizer, first.out)
    first.source.rename(first.source.with_name("elsewhere"))

    with pytest.raises(LoadError, match=r"the weights of x/y are no longer where they were.*; prepare it again"):
        ensure_intact(first.out, "x/y")


@pytest.mark.parametrize(
    "file",
    [
        "tokenizer.model",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
        SECOND,
    ],
)
def test_files_that_are_lost_are_noticed(first: Case, file: str) -> None:
    """Each that vLLM needs, before it misses it."""
    prepare(first.source, first.tokenizer, first.out)
    (first.out / file).unlink()

    with pytest.raises(LoadError, match=r"x/y.*; prepare it again"):
        ensure_intact(first.out, "x/y")


def test_what_another_version_made_is_noticed(first: Case) -> None:
    """It may lack what this one relies on."""
    prepare(first.source, first.tokenizer, first.out)
    change(first.out / "config.json", altgate=0)

    with pytest.raises(LoadError, match=r"x/y was prepared by another version of Altgate; prepare it again"):
        ensure_intact(first.out, "x/y")


# --- the program ---


def words(case: Case, model: str) -> list[str]:
    """The program's command line."""
    return [f"--model={model}", f"--source={case.source}", f"--tokenizer={case.tokenizer}", f"--out={case.out}"]


def test_the_program_prepares(second: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """And is silent about it."""
    assert main(words(second, "cogvlm2-llama3-chat-19b")) == 0
    assert (second.out / "config.json").is_file()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("cogvlm-chat", "altgate: the source is of the other generation, that of cogvlm2-llama3-chat-19b; name"),
        ("gemma-3-4b", "altgate: the model 'gemma-3-4b' needs no preparation; only cogvlm-chat and cogvlm2-llama3"),
    ],
)
def test_the_program_prepares_the_model_that_was_named(
    second: Case, model: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other generation, and no other model."""
    assert main(words(second, model)) == 1
    assert capsys.readouterr().err.startswith(sentence)
    assert not second.out.exists()


def test_preparing_imports_no_model_library() -> None:
    """It runs wherever Altgate does, in a moment."""
    program = "import sys, engines.cogvlm.prepare; print({'torch', 'transformers', 'vllm', 'numpy'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout == "set()\n"
