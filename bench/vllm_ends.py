"""What becomes of a real vLLM that hangs, or whose gateway and launcher are killed: `python -m bench.vllm_ends`.

A tiny Gemma 3 is served by vLLM in its usual processes, beside the demo model. The process with the model is stopped
(SIGSTOP) under three requests and a stream: what their clients are told, whether the other model answers meanwhile,
and when the next request is answered. Then the gateway and vLLM's launcher are killed at the same time (SIGKILL), once
with the model's process at work and once with it stopped: when the last process has ended. Shared memory that is still
there after any of it is an error. Takes some minutes.
"""

import argparse
import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import pictures
from tests.engines.vllm import tiny
from tests.flows.raw import Answer, chat
from tests.services import Server, running_server

SETTINGS = """
[engines]
preload = ["demo"]
max_loaded = 2
request_timeout = "{limit}s"
[models.tiny]
engine = "vllm"
source = "{folder}"
max_model_len = 1024
args = {{ enforce-eager = true, dtype = "float32", kv-cache-memory-bytes = 67108864 }}
"""
FRESH = {"cache-control": "no-store"}
MESSAGES = [pictures.message(pictures.data_url(pictures.png(pictures.SCENES[0])))]
PATIENCE = 60.0  # seconds


class Family:
    """The processes of a gateway's vLLM, as they are now, and the shared memory that they hold."""

    def __init__(self, server: Server) -> None:
        self.launcher = next(pid for pid in server.engine_pids() if "engines.vllm" in _told(pid, "cmdline"))
        pids = [self.launcher, *_descendants(self.launcher)]
        self.core = next(pid for pid in pids if "EngineCor" in _told(pid, "comm"))
        self.memory = {Path(name) for pid in pids for name in _files(pid) if name.startswith("/dev/shm/psm_")}
        self._watched = [os.pidfd_open(pid) for pid in pids]

    def end(self) -> float:
        """Seconds until all of it has ended; nothing is left then."""
        began = time.perf_counter()
        for watched in self._watched:
            if not select.select([watched], [], [], PATIENCE)[0]:
                raise SystemExit("a process of vLLM stays")
            os.close(watched)
        took = time.perf_counter() - began
        if left := [memory.name for memory in self.memory if memory.exists()]:
            raise SystemExit(f"shared memory is left: {left}")
        return took


def main() -> None:
    """Prints what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=10, help="seconds that a request may take (%(default)s)")
    limit = parser.parse_args().limit
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gemma").mkdir()
        settings = SETTINGS.format(folder=tiny.gemma3(folder / "gemma"), limit=limit)
        with running_server(folder, settings=settings) as server:
            _hang(server, limit)
            _kill(server, stopped=False)
        with running_server(folder, settings=settings) as server:
            _kill(server, stopped=True)


def _hang(server: Server, limit: int) -> None:
    _answered(server)
    family = Family(server)
    with ThreadPoolExecutor(4) as threads:
        asked = {"max_tokens": 1000, "logit_bias": {"1": -100, "6": -100}}
        begun = threads.submit(_ask, server, "tiny", stream=True, **asked)
        time.sleep(0.5)
        os.kill(family.core, signal.SIGSTOP)
        began = time.perf_counter()
        hanging = [threads.submit(_ask, server, "tiny", **asked) for _ in range(3)]
        other = _ask(server, "demo")
        print(f"meanwhile        {other.status} from another model after {time.perf_counter() - began:.1f} s")
        told = [each.result() for each in hanging]
        print(f"the hanging      {[each.status for each in told]} after {time.perf_counter() - began:.1f} s of {limit}")
        print(f"a stream begun   ends with {begun.result().body[-120:]!r}")
    print(f"killed           nothing is left {family.end():.1f} s after that")
    print(f"the next         is answered {_answered(server):.1f} s after that")


def _kill(server: Server, *, stopped: bool) -> None:
    _answered(server)
    family = Family(server)
    if stopped:
        os.kill(family.core, signal.SIGSTOP)
    server.process.send_signal(signal.SIGSTOP)  # so that it does not see its launcher die
    for pid in (family.launcher, server.process.pid):
        os.kill(pid, signal.SIGKILL)
    print(f"both killed      {'while it hung, ' if stopped else ''}nothing is left {family.end():.1f} s later")


def _ask(server: Server, model: str, **fields: object) -> Answer:
    return chat(server, FRESH, model=model, messages=MESSAGES, **fields)


def _answered(server: Server) -> float:
    """Seconds until a request is answered, which comes again when it is told to."""
    began = time.perf_counter()
    while (answer := _ask(server, "tiny", max_tokens=1)).status != 200:  # noqa: PLR2004
        if answer.status not in (503, 504):
            raise SystemExit(f"{answer.status}: {answer.body!r}")
        time.sleep(0.5)
    return time.perf_counter() - began


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from _descendants(child)


def _files(pid: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]


def _told(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


if __name__ == "__main__":
    main()
