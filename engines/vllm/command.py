"""How vLLM is started: its command line and its environment. Pure.

vLLM's server was made to be used by people, and trusts them with a lot. Here only the gateway speaks to it, so that
whatever the gateway never uses is closed: fetching pictures, telling the world that it runs, the endpoints for
development, more pictures, more pixels or more answers than the gateway lets through.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

MAX_CHOICES: Final = 8
MAX_LOGPROBS: Final = 20
MAX_QUEUED: Final = 256  # requests; more are answered with 503, and by the gateway with 429
DRAIN_SECONDS: Final = 10
SLEEP_OPTION: Final = "--enable-sleep-mode"
NOWHERE: Final = "media.invalid"  # a domain that cannot exist: the only one that pictures may be fetched from


LORA: Final = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"  # opens what the gateway never uses
KEY: Final = "VLLM_API_KEY"  # locks the gateway out of a socket that is its alone, and protects an address
PLUGIN: Final = "altgate-cogvlm"  # the name of its entry point
CHAT_TEMPLATES: Final[Mapping[str, Path]] = {  # for kinds of models that have none of their own, or none that is right
    "blip-2": Path(__file__).with_name("blip2.jinja"),
}


class Address(NamedTuple):
    """An address to listen on, and its TCP port."""

    host: str
    port: int


class Served(NamedTuple):
    """What is served: the folder of a checkpoint, the name that requests call it by, where to listen.

    `place` is a Unix socket's path, or an address and a TCP port. `tokenizer` is the folder of its tokenizer (None: the
    same), `kind` the checkpoint's `model_type`; `max_model_len` is in tokens (None: the model's own), `max_pictures`
    per request, `max_pixels` per picture. Files of pictures are read out of the folder `pictures` alone. `options` are
    vLLM's.
    """

    folder: Path
    tokenizer: Path | None
    kind: str
    name: str
    place: Path | Address
    max_model_len: int | None
    max_pictures: int
    max_pixels: int
    options: Sequence[str]
    pictures: Path | None = None


def command(served: Served) -> list[str]:
    """The command line. The operator's own options come last, so that they hold."""
    return [
        *(sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"),
        f"--model={served.folder}",
        *([f"--tokenizer={served.tokenizer}"] if served.tokenizer is not None else ()),
        f"--served-model-name={served.name}",
        *_listening(served.place),
        *([f"--max-model-len={served.max_model_len}"] if served.max_model_len is not None else ()),
        f"--limit-mm-per-prompt={json.dumps({'image': served.max_pictures, 'video': 0, 'audio': 0})}",
        f"--allowed-media-domains={NOWHERE}",
        *([f"--allowed-local-media-path={served.pictures}"] if served.pictures is not None else ()),
        f"--max-logprobs={MAX_LOGPROBS}",
        f"--max-num-queued-reqs={MAX_QUEUED}",
        f"--shutdown-timeout={DRAIN_SECONDS}",
        # Without these, even a tool that must be called is refused, whose form vLLM enforces without any parser. Tools
        # that a model may choose to call reach it only when the operator has named the parser that fits.
        "--enable-auto-tool-choice",
        "--tool-call-parser=pythonic",
        # One back end, named: "auto" keeps to the one that its first schema got, whatever the later ones need. And no
        # free white space, with which a small model can fill an answer to its end.
        f"--structured-outputs-config={json.dumps({'backend': 'xgrammar', 'disable_any_whitespace': True})}",
        # Of a picture that it has prepared before, vLLM's front sends its core only the name, although the core may not
        # have it yet, or never get it: such a request fails. Without that cache a picture is prepared for each request,
        # and still encoded once.
        "--mm-processor-cache-gb=0",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
        *([f"--chat-template={CHAT_TEMPLATES[served.kind]}"] if served.kind in CHAT_TEMPLATES else ()),
        *served.options,
    ]


def _listening(place: Path | Address) -> list[str]:
    if isinstance(place, Address):
        return [f"--host={place.host}", f"--port={place.port}"]
    return [f"--uds={place}"]


def cache_folder(given: Mapping[str, str]) -> Path:
    """Where Altgate keeps what can be made again, by the environment."""
    home = given.get("XDG_CACHE_HOME") or Path(given.get("HOME", "/tmp")) / ".cache"  # noqa: S108 - vLLM's own default
    return Path(home) / "altgate"


def environment(served: Served, given: Mapping[str, str]) -> dict[str, str]:
    """The environment, from the one given: offline, silent about itself, bounded."""
    reachable = isinstance(served.place, Address)
    return {
        # Compiled kernels are code: not shared with whatever else runs vLLM on this machine.
        "VLLM_CACHE_ROOT": str(cache_folder(given) / "vllm"),
        "VLLM_XGRAMMAR_CACHE_MB": "128",
        **{name: value for name, value in given.items() if name != LORA and (name != KEY or reachable)},
        **_plugins(given),
        "PYTHONSAFEPATH": "1",  # vLLM starts Python by itself too, and nothing is to come from the current folder
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MEDIA_FETCH_MAX_RETRIES": "1",
        "VLLM_MAX_IMAGE_PIXELS": str(served.max_pixels),
        "VLLM_MAX_N_SEQUENCES": str(MAX_CHOICES),
        # A call that must be made is kept to its schema, whichever parser the calls of a model's own choice need.
        "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
        # Sleeping is nowhere but among the endpoints for development. The socket is the gateway's alone, an address is
        # not, and the gateway puts to sleep only what it has started.
        "VLLM_SERVER_DEV_MODE": "1" if SLEEP_OPTION in served.options and not reachable else "0",
    }


def _plugins(given: Mapping[str, str]) -> dict[str, str]:
    """The plugins that vLLM may load: ours too, where the operator has named others; unset, they are all."""
    named = given.get("VLLM_PLUGINS")
    if named is None:
        return {}
    others = [name for name in named.split(",") if name not in {"", PLUGIN}]
    return {"VLLM_PLUGINS": ",".join([*others, PLUGIN])}
