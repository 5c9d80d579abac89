"""The process that stands beside vLLM: it fetches, relays, explains, and ends what it has started."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engines.vllm.__main__ import parse

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


def test_nothing_outlives_the_gateway(tmp_path: Path) -> None:
    """When the parent's end of stdin closes, the launcher, vLLM and what vLLM has started are gone."""
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(1000)"
    )
    code = (
        "import sys, threading\n"
        "from collections import deque\n"
        "from engines.vllm import __main__ as launcher\n"
        "threading.Thread(target=launcher._end_with_the_gateway, daemon=True).start()\n"
        "launcher.run([sys.executable, '-c', sys.argv[1]], None, deque(maxlen=1))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pids = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
    process.stdin.close()

    assert process.wait(30) == -signal.SIGKILL
    for pid in pids:
        assert select.select([pid], [], [], 30)[0]
        os.close(pid)
    process.stdout.close()


@pytest.mark.parametrize("missing", ["--source=/s", "--model=m", "--uds=/u"])
def test_what_it_needs_it_asks_for(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A launcher started without what it needs says what is missing."""
    with pytest.raises(SystemExit):
        parse([argument for argument in ARGUMENTS if argument != missing])

    assert missing.partition("=")[0] in capsys.readouterr().err
