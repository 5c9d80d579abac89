"""Serves a BLIP checkpoint: `python -m engines.blip --model NAME --source DIR_OR_HUB_NAME --uds PATH` or `--port N`."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from engines.blip.source import locate
from engines.listener import Listener
from engines.loading import LoadError, Report
from engines.serve import Engine, run
from engines.source import DOWNLOADED, spoken

if TYPE_CHECKING:
    from engines.blip.model import BlipModel

DEFAULT_HOST = "127.0.0.1"


def main(arguments: Sequence[str]) -> int:
    """Opens the socket, loads the model, serves it until told to stop; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # stderr is a log; read when they are imported
    options = parse(arguments)
    try:
        listener = Listener(uds=options.uds, host=options.host, port=options.port)
    except OSError as error:
        sys.stderr.write(f"altgate: the engine cannot listen on its socket ({error.strerror or error})\n")
        return 1
    return run(
        lambda report: load(options, report),
        model=options.model,
        listener=listener,
        exit_on_stdin_eof=options.exit_on_stdin_eof,
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the options in the last line, as a failed load does."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"altgate: the options of its engine, set as `args`, are wrong: {message}\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = _Parser(prog="python -m engines.blip", description="Serves a BLIP captioning checkpoint.")
    parser.add_argument("--source", required=True, help="a folder with a checkpoint, or a name on the model hub")
    parser.add_argument("--revision", default="main", help="the hub's branch, tag or commit (%(default)s)")
    parser.add_argument("--model", required=True, help="the name that requests call it by")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--uds", type=Path, help="the Unix socket to listen on; created private, removed at the end")
    place.add_argument("--port", type=int, default=0, help="the TCP port to listen on")
    parser.add_argument("--host", default=DEFAULT_HOST, help="the address to listen on with --port (%(default)s)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--threads", type=_count, help="processor threads for one batch (PyTorch's own choice)")
    parser.add_argument("--max-batch", type=_count, default=8, help="captions made at once (%(default)s)")
    parser.add_argument("--max-queue", type=_count, default=256, help="requests that may wait (%(default)s)")
    parser.add_argument(
        "--keep-artefacts",
        action=argparse.BooleanOptionalAction,
        default=False,
        help='leave a leading "arafed" in captions',
    )
    parser.add_argument("--pictures", type=Path, help="the only folder that pictures are read out of (none)")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="end when the parent's end of stdin closes")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace, report: Report) -> Engine:
    """Loads the checkpoint and warms it up.

    Raises:
        LoadError: it cannot be had or used; the message says what to do.
    """
    report("importing", 0.0)
    try:
        from engines.blip.captioner import Captioner  # noqa: PLC0415 -- torch: seconds, and perhaps not installed
        from engines.blip.model import BlipModel, choose_device, choose_dtype, use_threads  # noqa: PLC0415
    except ImportError as error:
        raise LoadError(
            "the blip engine needs PyTorch and Transformers, which cannot be imported here; "
            "install them with: pip install 'altgate[blip]'"
        ) from error
    use_threads(options.threads)
    folder = locate(options.source, options.revision, report)
    report("weights", DOWNLOADED)

    def make() -> "BlipModel":
        device = choose_device(options.device)
        model = BlipModel(folder, device=device, dtype=choose_dtype(options.dtype, device))
        report("warm-up", 0.95)
        model.warm_up(options.max_batch)
        return model

    return Captioner(
        _translated(make, spoken(options.source)),
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        keep_artefacts=options.keep_artefacts,
        folder=options.pictures,
    )


def _translated(make: "Callable[[], BlipModel]", name: str) -> "BlipModel":
    """Makes the model; what may go wrong with it becomes a sentence."""
    try:
        return make()
    except LoadError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():  # torch says it in a RuntimeError
            raise LoadError(f"there is not enough memory for {name}; free some, or choose a smaller model") from error
        raise LoadError(
            f"the checkpoint of {name} cannot be loaded ({type(error).__name__}): its files do not fit together or are "
            "damaged; download it again, the engine's log says more"
        ) from error


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # an unfinished load and torch's own threads are not waited for
