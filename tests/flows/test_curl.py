"""The banner's own curl command, and curl as people use it."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.services import Server

ROOT = Path(__file__).parents[2]


def test_the_banners_curl_command_works_as_printed(server: Server) -> None:
    """What `altgate serve` tells a new user to type gets the right caption."""
    line = next(line for line in server.banner.splitlines() if line.strip().startswith("curl "))

    done = subprocess.run(shlex.split(line), capture_output=True, check=True, cwd=ROOT)

    request = json.loads((ROOT / "engines/demo/request.json").read_text())
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == request["metadata"]["caption"]


def test_curl_streams(server: Server) -> None:
    """Server-sent events arrive as text."""
    curl = shutil.which("curl")
    assert curl is not None
    body = json.dumps({"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})

    done = subprocess.run(
        [curl, "-sN", f"{server.base_url}/chat/completions", "-d", body], capture_output=True, check=True, text=True
    )

    events = [line for line in done.stdout.splitlines() if line]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"


def test_the_banner_has_everything_for_the_first_request(server: Server) -> None:
    """Base URL, models with engine, device and state, the cache, the key, and the two lines to change."""
    assert f"Base URL: {server.base_url}" in server.banner
    assert re.search(r"demo +blip +cpu +loading now", server.banner)
    assert "cache   in memory" in server.banner
    assert "none needed" in server.banner
    assert f'OpenAI(base_url="{server.base_url}", api_key="any")' in server.banner
