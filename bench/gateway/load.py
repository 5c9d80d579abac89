"""Load by wrk, on a core of its own."""

import json
import subprocess
from pathlib import Path

from msgspec import Struct

SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
wrk.headers["content-type"] = "application/json"
{extra}
function done(summary, latency, _)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format('RESULT {{"requests":%d,"microseconds":%d,"p50":%.1f,"p99":%.1f,"errors":%d}}\\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), bad))
end
"""
NO_STORE = 'wrk.headers["cache-control"] = "no-store"'
# A number of its own in the text of each request, so that no two are alike.
DISTINCT = """
local head, tail = wrk.body:match("^(.*Generate )(.-)$")
local run, count = os.time(), 0
function request()
    count = count + 1
    return wrk.format(nil, nil, nil, string.format("%s%d-%d %s", head, run, count, tail))
end
"""


class Result(Struct, frozen=True):
    """What wrk saw; `p50` and `p99` are latencies in microseconds."""

    requests: int
    microseconds: int
    p50: float
    p99: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.microseconds * 1e6


class Load:
    """Sends one body again and again from that core."""

    def __init__(self, folder: Path, core: int) -> None:
        self._folder = folder
        self._core = core

    def run(self, root: str, body: bytes, *, connections: int, seconds: float, extra: str = "") -> Result:
        """The result of so many seconds; every answer that is no success ends the command."""
        (self._folder / "body.json").write_bytes(body)
        script = self._folder / "post.lua"
        script.write_text(SCRIPT.format(body=self._folder / "body.json", extra=extra))
        command = ["taskset", "--cpu-list", str(self._core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s"]
        command += ["--timeout", "30s", "-s", str(script), f"{root}/v1/chat/completions"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        line = next(line for line in output.splitlines() if line.startswith("RESULT "))
        result = Result(**json.loads(line.removeprefix("RESULT ")))
        if result.errors:
            raise SystemExit(f"{result.errors} of {result.requests} requests to {root} failed")
        return result
