"""Why vLLM did not start, in one sentence that a client may read, told from the last lines of its log. Pure."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple


class _Cause(NamedTuple):
    pattern: str
    sentence: str


# The first whose pattern stands in the log is told, so causes come before what follows from them.
_CAUSES: Final = (
    _Cause(
        pattern=r"Value ?Error[:,] cogvlm: (?P<detail>[^\n]{1,400}?)(?: \[type=|$)", sentence="{detail}"
    ),  # our own model's words
    _Cause(
        pattern=r"error: (?:unrecognized arguments|argument) *:? *(?P<detail>[\w .,=:-]{1,80})",
        sentence="the options of its engine, set as `args`, are wrong: {detail}",
    ),
    _Cause(
        pattern=r"Free memory on device .* is less than desired|No available memory for the cache blocks",
        sentence="the device has too little free memory; end what else uses it, lower `gpu-memory-utilization` in "
        "`args`, or choose a smaller model",
    ),
    _Cause(
        pattern=r"is larger than the (?:maximum number of tokens that can be stored in|available) KV cache"
        r"|KV cache is needed, which is larger than",
        sentence="its context does not fit into the device's memory; lower `max_model_len`",
    ),
    _Cause(
        pattern=r"out of memory|can't allocate memory|cannot allocate memory",
        sentence="there is not enough memory for it; free some, lower `max_model_len`, or choose a smaller model",
    ),
    _Cause(
        pattern=r"User-specified max_model_len .* is greater than the derived",
        sentence="`max_model_len` is greater than the model's own context; lower it",
    ),
    _Cause(
        pattern=r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver",
        sentence='vLLM finds no device that it can use; run it where there is one, or set engine = "remote"',
    ),
    _Cause(
        pattern=r"Model architectures .* (?:are not supported|failed to be inspected)|Unrecognized model in"
        r"|does not recognize this architecture",
        sentence="vLLM cannot load a model of its kind; choose another, or a newer vLLM",
    ),
    _Cause(
        pattern=r"No module named 'vllm",
        sentence="vLLM cannot be imported; install it with: pip install 'altgate[vllm]'",
    ),
)


def explained(lines: Iterable[str], code: int) -> str:
    """The sentence for a log's last lines and an exit code."""
    text = "\n".join(lines)
    for cause in _CAUSES:
        if found := re.search(cause.pattern, text, re.IGNORECASE | re.MULTILINE):
            return cause.sentence.format(**found.groupdict())
    if code < 0:
        return "vLLM was killed while it ran, as happens when memory runs out; free some or use less"
    return f"vLLM ended with exit code {code}; the gateway's log has its last lines"
