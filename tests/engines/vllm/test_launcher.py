"""The process that stands beside vLLM: it fetches, relays, explains, and ends what it has started."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from engines.vllm.__main__ import parse
from engines.vllm.family import tied

ROOT = Path(__file__).parents[3]
ARGUMENTS = ["--model=m", "--source=/s", "--uds=/u", "--max-model-len=64"]
STANDS_FOR_VLLM = """
import sys
from collections import deque
from engines.vllm import __main__ as launcher
tail = deque(maxlen=3)
code = launcher.run([sys.executable, "-c", sys.argv[1]], None, tail)
print("code", code, list(tail), flush=True)
"""


def launched(program: str) -> "subprocess.Popen[str]":
    """The launcher's `run`, in a process of its own, with a program in the place of vLLM."""
    return subprocess.Popen(
        [sys.executable, "-c", STANDS_FOR_VLLM, program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_what_is_not_the_launchers_is_vllms() -> None:
    """Every option that the launcher does not know goes to vLLM as it is, and none is guessed from its beginning."""
    options, own = parse([*ARGUMENTS, "--max-num-seqs=4", "--max-pic=3", "--no-enable-prefix-caching", "--x", "1", "2"])

    assert (options.model, options.max_model_len, options.max_pictures) == ("m", 64, 1)
    assert own == ["--max-num-seqs=4", "--max-pic=3", "--no-enable-prefix-caching", "--x", "1", "2"]


def test_it_listens_on_a_socket_or_on_a_port() -> None:
    """On one of them; on a port that this machine alone reaches, unless it is told otherwise."""
    named = ["--model=m", "--source=/s"]

    options, _ = parse([*named, "--port=8001"])

    assert (options.uds, options.host, options.port) == (None, "127.0.0.1", 8001)
    assert parse([*named, "--port=8001", "--host=0.0.0.0"])[0].host == "0.0.0.0"
    with pytest.raises(SystemExit):
        parse([*named, "--port=8001", "--uds=/u"])


def test_output_is_relayed_and_the_exit_code_kept() -> None:
    """Lines come out as they are printed, of both streams; the last ones are kept for the sentence."""
    with launched(
        "import sys; print('one'); sys.stdout.flush(); print('two', file=sys.stderr); sys.exit(3)"
    ) as process:
        output, _ = process.communicate(timeout=30)

    assert output.splitlines() == ["one", "two", "code 3 ['one', 'two']"]


def test_told_to_end_it_tells_vllm_and_waits() -> None:
    """SIGTERM reaches vLLM, which may finish; the launcher ends with it, and in order."""
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('drained'))\n"
        "print('up', flush=True)\n"
        "signal.pause()"
    )
    with launched(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)

    assert output.splitlines() == ["drained", "code 0 ['up', 'drained']"]


def test_a_missing_checkpoint_is_one_sentence() -> None:
    """The last line is for clients, and names no path."""
    arguments = ["--model=m", "--source=/nowhere", "--uds=/u", "--max-model-len=9", "--exit-on-stdin-eof"]
    command = [sys.executable, "-m", "engines.vllm", *arguments]
    # Its stdin stays open, as the gateway's leash does: an exit must not wait for it, nor stumble over who reads it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        code = process.wait(30)
        assert process.stderr is not None
        said = process.stderr.read()

    assert code == 1
    assert said.splitlines()[-1].startswith("altgate: the folder set as `source` holds no checkpoint")
    assert "/nowhere" not in said


SHARES_MEMORY = """
import os, signal, subprocess, sys, time
from multiprocessing import resource_tracker, shared_memory
shared = shared_memory.SharedMemory(create=True, size=4096)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(os.getpid(), child.pid, resource_tracker._resource_tracker._pid, shared.name, flush=True)
def ends(*_):
    child.kill()
    shared.unlink()
    sys.exit(0)
signal.signal(signal.SIGTERM, ends)
time.sleep(1000)
"""
ON_A_LEASH = """
import sys, threading
from collections import deque
from engines.vllm import __main__ as launcher
threading.Thread(target=launcher._end_with_the_gateway, daemon=True).start()
launcher.run([sys.executable, "-c", sys.argv[1]], None, deque(maxlen=1))
"""


class Family:
    """A launcher with a program in vLLM's place that shares memory with a child, as vLLM does."""

    def __init__(self) -> None:
        self.launcher = subprocess.Popen(
            [sys.executable, "-c", ON_A_LEASH, SHARES_MEMORY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self.launcher.stdout is not None
        *pids, name = self.launcher.stdout.readline().split()
        self.server, self.child, self.tracker = map(int, pids)
        self.memory = Path("/dev/shm") / name
        assert self.memory.exists()
        self._watched = [os.pidfd_open(int(pid)) for pid in pids]

    def let_go(self) -> None:
        """The parent's end of the launcher's stdin closes."""
        assert self.launcher.stdin is not None
        self.launcher.stdin.close()

    def wait(self) -> int:
        """Returns when all of it has ended, with the launcher's exit code."""
        code = self.launcher.wait(30)
        for watched in self._watched:
            assert select.select([watched], [], [], 30)[0]
        return code

    def close(self) -> None:
        """Ends what a failed test has left."""
        for watched in self._watched:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(watched, signal.SIGKILL)
            os.close(watched)
        with self.launcher:
            self.launcher.kill()
        self.memory.unlink(missing_ok=True)


@pytest.fixture
def family() -> Iterator[Family]:
    """One that runs."""
    with closing(Family()) as running:
        yield running


@pytest.mark.parametrize("hangs", [False, True])
def test_nothing_outlives_the_gateway(family: Family, hangs: bool) -> None:
    """When the parent's end of stdin closes, the launcher, vLLM and what vLLM has started are gone, and so is the
    memory that they shared; also when they hang.
    """
    for pid in (family.server, family.child) if hangs else ():
        os.kill(pid, signal.SIGSTOP)
    family.let_go()

    assert family.wait() == -signal.SIGKILL
    assert not family.memory.exists()


def test_nothing_outlives_a_launcher_that_is_killed(family: Family) -> None:
    """As when the gateway is killed at the same time, so that nobody is there to do it: vLLM is told to end."""
    family.launcher.kill()

    assert family.wait() == -signal.SIGKILL
    assert not family.memory.exists()


def test_nothing_outlives_a_server_that_is_killed(family: Family) -> None:
    """As when memory runs out: what it has started does not notice by itself."""
    os.kill(family.server, signal.SIGKILL)

    assert family.wait() == 0
    assert not family.memory.exists()


def test_who_tidies_up_for_too_long_is_ended_too(family: Family) -> None:
    """A tracker that hangs does not hold up the end."""
    os.kill(family.tracker, signal.SIGSTOP)
    family.let_go()

    assert family.wait() == -signal.SIGKILL


def test_who_starts_when_the_launcher_is_gone_does_not_stay() -> None:
    """Between its start and its being tied the launcher may have died."""
    arguments = tied([sys.executable, "-c", "print('up')"])
    arguments[arguments.index(str(os.getpid()))] = "1"

    done = subprocess.run(arguments, capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("missing", ["--source=/s", "--model=m", "--uds=/u"])
def test_what_it_needs_it_asks_for(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A launcher started without what it needs says what is missing."""
    with pytest.raises(SystemExit):
        parse([argument for argument in ARGUMENTS if argument != missing])

    assert missing.partition("=")[0] in capsys.readouterr().err
