"""What the launcher hands to vLLM: a checkpoint as it is, or one of CogVLM made ready on its first start."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engines.cogvlm.prepare import prepare
from engines.loading import LoadError, unreported
from engines.vllm.checkpoints import Checkpoint, ensure_servable, ready
from tests.engines.blip import hub
from tests.engines.cogvlm import tiny

ROOT = Path(__file__).parents[3]
IMAGE_TOKENS = 18


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tiny.Published:
    """CogVLM as published, its tokenizer in a folder of its own."""
    return tiny.cogvlm(tmp_path_factory.mktemp("published"))


@pytest.fixture
def ordinary(tmp_path: Path) -> Path:
    """A checkpoint that needs no preparation."""
    folder = tmp_path / "ordinary"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    (folder / "model.safetensors").touch()
    return folder


def found(source: Path, tokenizer: Path | None, cache: Path) -> Checkpoint:
    """What the launcher finds, with its cache there."""
    words = None if tokenizer is None else str(tokenizer)
    return ready(str(source), "main", words, {"XDG_CACHE_HOME": str(cache)}, unreported)


def test_an_ordinary_checkpoint_is_used_as_it_is(ordinary: Path, tmp_path: Path) -> None:
    """Nothing is made of it; its tokenizer is its own."""
    checkpoint = found(ordinary, None, tmp_path / "cache")

    assert checkpoint == (ordinary, {"model_type": "gemma3"}, None)
    assert not (tmp_path / "cache").exists()


def test_an_ordinary_checkpoint_may_have_its_tokenizer_elsewhere(
    ordinary: Path, published: tiny.Published, tmp_path: Path
) -> None:
    """It is vLLM that is told of it."""
    assert found(ordinary, published.tokenizer, tmp_path / "cache").tokenizer == published.tokenizer


def test_a_published_checkpoint_is_prepared_once(published: tiny.Published, tmp_path: Path) -> None:
    """At the first start, which tells how far it is, in Altgate's own cache; later starts find it."""
    told: list[str] = []
    environ = {"HOME": str(tmp_path)}
    source, tokenizer = str(published.checkpoint), str(published.tokenizer)

    first = ready(source, "main", tokenizer, environ, lambda phase, _: told.append(phase))
    again = ready(source, "main", tokenizer, environ, lambda phase, _: told.append(phase))

    assert first == again
    assert (first.config["model_type"], first.tokenizer) == ("cogvlm", None)
    assert first.folder.parent == tmp_path / ".cache/altgate/prepared"
    assert told == ["prepare", "prepare"]  # one for each file of weights


def test_what_has_changed_is_prepared_anew(published: tiny.Published, tmp_path: Path) -> None:
    """Another file, or another tokenizer, makes another folder."""
    source = shutil.copytree(published.checkpoint, tmp_path / "source")
    before = found(source, published.tokenizer, tmp_path)
    config = json.loads((source / "config.json").read_bytes())
    (source / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 300}))
    after = found(source, published.tokenizer, tmp_path)

    assert before.folder != after.folder
    assert after.config["max_position_embeddings"] == 300 + IMAGE_TOKENS - 3


def test_what_is_not_used_makes_no_other_folder(published: tiny.Published, tmp_path: Path) -> None:
    """Such as a note beside the weights."""
    source = shutil.copytree(published.checkpoint, tmp_path / "source")
    before = found(source, published.tokenizer, tmp_path)
    (source / "README.md").write_text("read me")

    assert found(source, published.tokenizer, tmp_path).folder == before.folder


def test_many_first_starts_at_once_prepare_once(published: tiny.Published, tmp_path: Path) -> None:
    """The others wait and find what the first one has made."""
    everybody = threading.Barrier(6)
    told: list[str] = []

    def start(_: int) -> Checkpoint:
        everybody.wait()
        source, tokenizer = str(published.checkpoint), str(published.tokenizer)
        return ready(source, "main", tokenizer, {"HOME": str(tmp_path)}, lambda phase, _: told.append(phase))

    with ThreadPoolExecutor(6) as threads:
        checkpoints = list(threads.map(start, range(6)))

    assert all(checkpoint == checkpoints[0] for checkpoint in checkpoints)
    assert told == ["prepare", "prepare"]  # one for each file of weights
    assert list(checkpoints[0].folder.parent.iterdir()) == [checkpoints[0].folder]


@pytest.mark.parametrize("file", ["config.json", "tokenizer.model", "model-00001-of-00002.safetensors"])
def test_what_is_damaged_in_our_cache_is_made_again(published: tiny.Published, tmp_path: Path, file: str) -> None:
    """Nobody has to be asked for it."""
    before = found(published.checkpoint, published.tokenizer, tmp_path)
    (before.folder / file).unlink()

    assert found(published.checkpoint, published.tokenizer, tmp_path) == before
    assert (before.folder / file).is_file()


def test_a_checkpoint_that_was_saved_again_is_prepared(published: tiny.Published, tmp_path: Path) -> None:
    """Though it names a type of model then, it is none of ours."""
    source = shutil.copytree(published.checkpoint, tmp_path / "source")
    config = json.loads((source / "config.json").read_bytes())
    (source / "config.json").write_text(json.dumps({**config, "model_type": "cogvlm"}))

    assert found(source, published.tokenizer, tmp_path).config["image_tokens"] == IMAGE_TOKENS


def test_a_prepared_checkpoint_is_used_as_it_is(published: tiny.Published, tmp_path: Path) -> None:
    """Nothing is looked for beside it, not even the tokenizer that its entry in the catalogue names."""
    prepare(published.checkpoint, published.tokenizer, tmp_path / "out")

    checkpoint = found(tmp_path / "out", Path("/nowhere"), tmp_path / "cache")

    assert (checkpoint.folder, checkpoint.tokenizer) == (tmp_path / "out", None)
    assert not (tmp_path / "cache").exists()


def test_a_prepared_checkpoint_without_its_weights_is_refused(published: tiny.Published, tmp_path: Path) -> None:
    """Before vLLM stumbles over it."""
    source = shutil.copytree(published.checkpoint, tmp_path / "source")
    prepare(source, published.tokenizer, tmp_path / "out")
    shutil.rmtree(source)

    with pytest.raises(LoadError, match=r"of the folder set as `source` are no longer where they were"):
        found(tmp_path / "out", None, tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--max-num-batched-tokens=8", "--max-num-seqs=8"], "`max-num-batched-tokens`"),
        (["--max_num_batched_tokens", "8", "--x", "--max_num_seqs", "16"], "`max-num-batched-tokens`"),
        (["--long-prefill-token-threshold=1"], "`long-prefill-token-threshold`"),
        (["--speculative-config={}"], "speculative decoding"),
        (["--scheduling-policy=priority"], '`scheduling-policy = "priority"`'),
    ],
)
def test_budgets_that_would_go_wrong_are_refused(options: list[str], sentence: str) -> None:
    """Before anything is loaded, in whatever way the options are written."""
    checkpoint = Checkpoint(Path("/p"), {"model_type": "cogvlm", "altgate": 1, "image_tokens": IMAGE_TOKENS}, None)

    with pytest.raises(LoadError, match=sentence):
        ensure_servable(checkpoint, 512, options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("cogvlm", []),
        ("cogvlm", ["--max-num-batched-tokens=16", "--max-num-seqs=8"]),
        ("cogvlm", ["--max-num-batched-tokens=8k", "--max-num-seqs", "--scheduling-policy=fcfs"]),
        ("gemma3", ["--max-num-batched-tokens=8", "--max-num-seqs=8"]),
    ],
)
def test_other_budgets_and_other_models_are_left_to_vllm(kind: str, options: list[str]) -> None:
    """So is what is no plain number."""
    ensure_servable(
        Checkpoint(Path("/p"), {"model_type": kind, "altgate": 1, "image_tokens": IMAGE_TOKENS}, None), 512, options
    )


# --- as a program ---


def launched(source: Path, cache: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """The launcher, which is to end before it has started vLLM."""
    words = ["--model=m", f"--source={source}", f"--uds={cache / 'socket'}", *options]
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "engines.vllm", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ, timeout=60)


def test_a_context_without_room_for_a_picture_is_told_in_a_sentence(published: tiny.Published, tmp_path: Path) -> None:
    """After the preparation, whose progress is told, and before vLLM; no path is named."""
    done = launched(published.checkpoint, tmp_path, f"--tokenizer={published.tokenizer}", "--max-model-len=20")

    assert done.returncode == 1
    assert done.stdout.splitlines() == ["altgate-loading: prepare 0.825", "altgate-loading: prepare 0.850"]
    assert done.stderr.startswith("altgate: `max_model_len` (20) has no room for a picture")
    assert str(tmp_path) not in done.stderr


def test_a_missing_tokenizer_is_told_in_a_sentence(published: tiny.Published, tmp_path: Path) -> None:
    """None given, and one that is not there."""
    none = launched(published.checkpoint, tmp_path)
    nowhere = launched(published.checkpoint, tmp_path, "--tokenizer=/nowhere")

    assert none.stderr.startswith(
        "altgate: the folder set as `source` holds no tokenizer, which is published as lmsys/"
    )
    assert nowhere.stderr.startswith("altgate: the folder set as `tokenizer` holds no tokenizer")
    assert (none.returncode, nowhere.returncode) == (1, 1)


def test_a_tokenizer_of_the_hub_is_downloaded_without_weights(published: tiny.Published, tmp_path: Path) -> None:
    """From a hub of our own: as small as it is."""
    assert published.tokenizer is not None
    words = shutil.copytree(published.tokenizer, tmp_path / "words")
    (words / "pytorch_model.bin").write_bytes(bytes(1000))
    code = (
        "from engines.source import locate_tokenizer\n"
        "from engines.vllm.checkpoints import FILES\n"
        "print(locate_tokenizer('org/words', files=FILES))\n"
    )
    with hub.serving(words, "org/words") as address:
        environ = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True)

    assert sorted(path.name for path in Path(done.stdout.strip()).iterdir()) == sorted(
        path.name for path in published.tokenizer.iterdir()
    )


def test_the_launcher_imports_no_model_library() -> None:
    """It stays beside vLLM for as long as that lives, and is to be small."""
    program = "import sys, engines.vllm.__main__; print({'torch', 'transformers', 'vllm', 'numpy'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout == "set()\n"
