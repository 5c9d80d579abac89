"""How vLLM is started: closed wherever the gateway never knocks, and with whatever the operator adds."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jinja2
import pytest

from engines.vllm.command import PLUGIN, Address, Served, command, environment


def served(*options: str, kind: str = "gemma3", tokenizer: Path | None = None) -> Served:
    """A model with two pictures a request."""
    return Served(Path("/models/gemma"), tokenizer, kind, "gemma", Path("/run/1.sock"), 8192, 2, 50_000_000, options)


def test_vllm_is_told_what_to_serve_and_where() -> None:
    """The checkpoint, the name that requests use, the private socket and the bounds that the gateway keeps."""
    line = command(served())

    assert line[1:4] == ["-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert {
        "--model=/models/gemma",
        "--served-model-name=gemma",
        "--uds=/run/1.sock",
        "--max-model-len=8192",
        '--limit-mm-per-prompt={"image": 2, "video": 0, "audio": 0}',
        "--max-logprobs=20",
    } <= set(line)


def test_a_tokenizer_of_its_own_is_told() -> None:
    """As a folder, for vLLM runs offline; without one it takes the checkpoint's."""
    assert "--tokenizer=/models/words" in command(served(tokenizer=Path("/models/words")))
    assert not [option for option in command(served()) if option.startswith("--tokenizer")]


def test_files_are_read_out_of_the_gateways_folder_alone() -> None:
    """Where there is one."""
    line = command(served()._replace(pictures=Path("/shm/pictures")))

    assert [option for option in line if "local-media" in option] == ["--allowed-local-media-path=/shm/pictures"]


def test_nothing_is_fetched_and_nothing_opened() -> None:
    """No domain to fetch from, no documentation pages, no private extensions, a bounded queue."""
    line = command(served())

    assert "--allowed-media-domains=media.invalid" in line
    assert any(option.startswith("--max-num-queued-reqs=") for option in line)
    assert not [option for option in line if option.startswith(("--trust", "--enable-mm", "--enable-prompt-embeds"))]
    assert not [option for option in line if option.startswith(("--host", "--port", "--allowed-local"))]


def test_the_operators_options_come_last() -> None:
    """Any option of vLLM can be given, and holds against ours."""
    line = command(served("--max-logprobs=5", "--quantization", "fp8"))

    assert line[-3:] == ["--max-logprobs=5", "--quantization", "fp8"]


def test_vllm_is_offline_silent_and_bounded() -> None:
    """It asks no hub, tells nobody that it runs, follows no redirect, decodes no more than the gateway hands over."""
    environ = environment(served(), {"PATH": "/bin", "VLLM_SERVER_DEV_MODE": "1", "HOME": "/home/me"})

    assert environ["PATH"] == "/bin"
    assert environ["HF_HUB_OFFLINE"] == environ["VLLM_NO_USAGE_STATS"] == environ["DO_NOT_TRACK"] == "1"
    assert environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == environ["VLLM_SERVER_DEV_MODE"] == "0"
    assert environ["VLLM_MAX_IMAGE_PIXELS"] == "50000000"
    assert environ["VLLM_MAX_N_SEQUENCES"] == "8"
    assert environ["VLLM_CACHE_ROOT"] == "/home/me/.cache/altgate/vllm"


def test_nothing_of_the_current_folder_is_run(tmp_path: Path) -> None:
    """A module that lies there is not taken for Python's own, not even by what vLLM starts itself."""
    (tmp_path / "argparse.py").write_text("print('run')")
    environ = environment(served(), os.environ)

    done = subprocess.run(
        [sys.executable, "-m", "gzip", "--help"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("usage")


@pytest.mark.parametrize(
    ("named", "loaded"),
    [("lora_filesystem_resolver", "lora_filesystem_resolver,altgate-cogvlm"), ("", "altgate-cogvlm"), (None, None)],
)
def test_our_own_plugin_is_among_those_that_are_named(named: str | None, loaded: str | None) -> None:
    """An operator who chooses among vLLM's plugins does not lose CogVLM; one who does not has all."""
    given = {} if named is None else {"VLLM_PLUGINS": named}

    once = environment(served(), given)

    assert once.get("VLLM_PLUGINS") == environment(served(), once).get("VLLM_PLUGINS") == loaded


def test_the_name_of_our_plugin_is_that_of_its_entry_point() -> None:
    """By which vLLM chooses."""
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())

    assert [*declared["project"]["entry-points"]["vllm.general_plugins"]] == [PLUGIN]


def test_the_operators_own_tuning_holds() -> None:
    """A setting of vLLM's in the environment that opens nothing is left as it is."""
    environ = environment(served(), {"VLLM_CACHE_ROOT": "/fast", "VLLM_CPU_KVCACHE_SPACE": "4", "HOME": "/home/me"})

    assert (environ["VLLM_CACHE_ROOT"], environ["VLLM_CPU_KVCACHE_SPACE"]) == ("/fast", "4")


def test_the_endpoints_for_development_open_for_sleeping_alone() -> None:
    """vLLM offers sleep nowhere else; without it they stay closed."""
    assert environment(served("--enable-sleep-mode"), {})["VLLM_SERVER_DEV_MODE"] == "1"
    assert environment(served("--no-enable-sleep-mode"), {})["VLLM_SERVER_DEV_MODE"] == "0"


def test_on_an_address_vllm_is_as_closed_and_a_key_of_the_operators_holds() -> None:
    """Others than the gateway may reach it there: nothing for development opens, and its own key is not lost."""
    elsewhere = served("--enable-sleep-mode")._replace(place=Address("0.0.0.0", 8001))
    given = {"VLLM_API_KEY": "k", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}

    assert {"--host=0.0.0.0", "--port=8001"} <= set(command(elsewhere))
    assert not [option for option in command(elsewhere) if option.startswith("--uds")]
    assert environment(elsewhere, {})["VLLM_SERVER_DEV_MODE"] == "0"
    assert environment(elsewhere, given)["VLLM_API_KEY"] == "k"
    assert not given.keys() & environment(served(), given).keys()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment(elsewhere, given)


def asked(*turns: tuple[str, str]) -> str:
    """What BLIP-2 reads of a dialogue."""
    (option,) = (option for option in command(served(kind="blip-2")) if option.startswith("--chat-template="))
    template = jinja2.Template(Path(option.partition("=")[2]).read_text())
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(template.render(messages=messages, add_generation_prompt=True))


def test_blip_2_is_asked_in_its_authors_form() -> None:
    """The beginning that its tokenizer gives to every text, questions and answers, a system message in the question."""
    assert asked(("user", "What is it?")) == "</s>Question: What is it? Answer:"
    assert asked(("system", "Be short."), ("user", "What?")) == "</s>Question: Be short. What? Answer:"
    dialogue = (("user", "What?"), ("assistant", "A cat."), ("user", "Where?"))
    assert asked(*dialogue) == "</s>Question: What? Answer: A cat. Question: Where? Answer:"


def test_blip_2_captions_a_picture_without_a_word() -> None:
    """A picture alone is the published way to a caption: nothing is asked."""
    assert asked(("user", "")) == "</s>"


def test_models_with_templates_of_their_own_keep_them() -> None:
    """Only the kinds that need one are given one."""
    assert not [option for option in command(served()) if option.startswith("--chat-template")]
