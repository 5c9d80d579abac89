"""Why vLLM did not start, in words for a client."""

import pytest

from engines.vllm.sentences import explained


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("api_server.py: error: unrecognized arguments: --quantisation=fp8", "wrong: --quantisation=fp8"),
        ("api_server.py: error: argument --dtype: invalid choice: 'half1'", "wrong: --dtype: invalid choice: "),
        (
            "ValueError: Free memory on device cuda:0 (2.1/15.8 GiB) on startup is less than desired GPU memory",
            "too little free memory",
        ),
        ("ValueError: No available memory for the cache blocks. Try increasing", "too little free memory"),
        (
            "one request with the model's max seq len: 8.0 GiB KV cache is needed, which is larger than the available",
            "lower `max_model_len`",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "not enough memory"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "not enough memory"),
        ("ValueError: User-specified max_model_len (99999) is greater than the derived max_model_len", "own context"),
        ("RuntimeError: Failed to infer device type, please set the environment", "finds no device"),
        ("Value error, Model architectures ['FooForBar'] are not supported for now.", "cannot load a model of its"),
        ("ModuleNotFoundError: No module named 'vllm'", "pip install 'altgate[vllm]'"),
        (
            "(EngineCore pid=7) ERROR 11-21 ValueError: cogvlm: it cannot be so; leave it out",
            "it cannot be so; leave it",
        ),
        (
            "  Value error, cogvlm: it is wrong; mend it [type=value_error, input_value=ArgsKwargs(('/home/me',",
            "it is wrong",
        ),
    ],
)
def test_the_cause_and_the_remedy_are_told(log: str, sentence: str) -> None:
    """Each known cause has its sentence, wherever in the log it stands."""
    lines = ["INFO starting", log, "RuntimeError: Engine core initialization failed. See root cause above."]

    assert sentence in explained(lines, 1)


def test_our_own_models_words_are_told_whole() -> None:
    """Without what pydantic adds, and not where a log merely names the model."""
    log = [
        "INFO loading /home/me/cogvlm: done",
        "  Value error, cogvlm: `a` must not be 1; leave it out [type=value_error, input_value=ArgsKwargs((), {})]",
        "    For further information visit",
    ]

    assert explained(log, 1) == "`a` must not be 1; leave it out"
    assert "/home" not in explained(log[:1], 1)


def test_a_path_in_the_log_is_not_told() -> None:
    """What is quoted of an option is its name and a plain value."""
    sentence = explained(["api_server.py: error: argument --chat-template: '/home/me/secret' is no template"], 2)

    assert "/home" not in sentence
    assert "--chat-template" in sentence


def test_what_is_not_known_points_to_the_log() -> None:
    """An exit code, or the signal of a system that ran out of memory."""
    assert explained(["something odd"], 7) == "vLLM ended with exit code 7; the gateway's log has its last lines"
    assert "memory runs out" in explained([], -9)
