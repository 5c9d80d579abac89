"""The health check of containers."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from engines import health
from tests.services import Server

ROOT = Path(__file__).parents[2]


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The port of a server that answers everything with that status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


def test_a_gateway_that_runs_is_well(server: Server) -> None:
    """As the container asks it: a program whose exit status is the answer."""
    command = [sys.executable, "-P", "-m", "engines.health", server.root.rpartition(":")[2]]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "200\n")


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (404, 1)])
def test_only_200_is_well(status: int, expected: int) -> None:
    """An engine that loads says 503."""
    with answering(status) as port:
        assert health.main([port]) == expected


def test_where_nobody_answers_the_line_names_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    """For whoever reads the container's state."""
    with answering(200) as port:
        pass

    assert health.main([port]) == 1
    assert f"nothing answers on port {port}" in capsys.readouterr().err


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have one in its environment; this machine is reached without."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200) as port:
        assert health.main([port]) == 0
