"""Serves a model with vLLM: `python -m engines.vllm --model NAME --source DIR_OR_HUB_NAME --uds PATH` or `--port N`.

Fetches the checkpoint when it is not here yet, then starts vLLM's own server and stays beside it: vLLM does not notice
when the gateway dies, and what it says when it cannot start is not for clients.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from engines.loading import LoadError
from engines.vllm import family
from engines.vllm.checkpoints import ensure_servable, ready
from engines.vllm.command import Address, Served, command, environment
from engines.vllm.sentences import explained

TAIL_LINES = 200  # a failed start of vLLM prints its cause first and then much else


def main(arguments: Sequence[str]) -> int:
    """Fetches, starts vLLM and stays until it has ended; returns the exit status."""
    options, own = parse(arguments)
    if options.exit_on_stdin_eof:
        threading.Thread(target=_end_with_the_gateway, daemon=True).start()
    try:
        checkpoint = ready(options.source, options.revision, options.tokenizer, os.environ, _report)
        ensure_servable(checkpoint, options.max_model_len, own)
    except LoadError as error:
        return _failed(str(error))
    served = Served(
        folder=checkpoint.folder,
        tokenizer=checkpoint.tokenizer,
        kind=str(checkpoint.config.get("model_type")),
        name=options.model,
        place=options.uds or Address(options.host, options.port),
        max_model_len=options.max_model_len,
        max_pictures=options.max_pictures,
        max_pixels=options.max_pixels,
        pictures=options.pictures if options.pictures is not None and options.pictures.is_dir() else None,
        options=own,
    )
    if options.uds is not None:
        options.uds.unlink(missing_ok=True)  # vLLM leaves its socket behind, and the next one stumbles over it
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    code = run(command(served), environment(served, os.environ), tail)
    return _failed(explained(tail, code)) if code else 0


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's options, and those that are vLLM's."""
    parser = argparse.ArgumentParser(
        prog="python -m engines.vllm",
        description="Serves a model with vLLM, to which options that are not listed here go.",
        allow_abbrev=False,
    )
    parser.add_argument("--source", required=True, help="a folder with a checkpoint, or a name on the model hub")
    parser.add_argument("--revision", default="main", help="the hub's branch, tag or commit (%(default)s)")
    parser.add_argument("--tokenizer", help="a folder with its tokenizer, or a name on the hub (the source's own)")
    parser.add_argument("--model", required=True, help="the name that requests call it by")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--uds", type=Path, help="the Unix socket to listen on")
    place.add_argument("--port", type=int, help="the TCP port to listen on")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on with --port (%(default)s)")
    parser.add_argument("--max-model-len", type=int, help="tokens of a prompt and its answer (the model's own)")
    parser.add_argument("--max-pictures", type=int, default=1, help="pictures in a request (%(default)s)")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, help="pixels of a picture (%(default)s)")
    parser.add_argument("--pictures", type=Path, help="the only folder that pictures are read out of (none)")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="end when the parent's end of stdin closes")
    return parser.parse_known_args(arguments)


def run(arguments: Sequence[str], environ: dict[str, str], tail: deque[str]) -> int:
    """Runs vLLM to its end, passing SIGTERM on; its output goes to ours, the end of it into `tail`.

    Returns its exit code; 0 where we have ended it, a signal's number, negated, when one did.
    """
    told = threading.Event()
    process = subprocess.Popen(  # noqa: S603 - our own interpreter, and the operator's options
        family.tied(arguments), env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def end(*_: object) -> None:
        told.set()
        process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    relay = threading.Thread(target=_relay, args=(process, tail), daemon=True)
    relay.start()
    code = process.wait()
    family.end_others()
    relay.join(timeout=1.0)
    return 0 if told.is_set() else code


def _relay(process: "subprocess.Popen[bytes]", tail: deque[str]) -> None:
    for line in process.stdout or ():
        os.write(sys.stdout.fileno(), line)
        tail.append(line.decode("utf-8", "replace").rstrip())


def _end_with_the_gateway() -> None:
    """Whatever ended the gateway, our stdin is closed then: nothing that we have started is to outlive it."""
    while os.read(sys.stdin.fileno(), 1024):  # not by Python's own buffer, whose lock an exit would find taken
        pass
    family.end_all()


def _report(phase: str, progress: float) -> None:
    sys.stdout.write(f"altgate-loading: {phase} {progress:.3f}\n")
    sys.stdout.flush()


def _failed(sentence: str) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"altgate: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
