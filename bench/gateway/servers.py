"""What is measured, and what stands behind it: each a process of its own, kept to one core."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from string import Template

from bench.gateway.bodies import MODEL

ROOT = Path(__file__).parents[2]
NGINX = Template("""
daemon off; worker_processes 1; pid $folder/nginx.pid; error_log $folder/nginx.log;
events { worker_connections 1024; }
http {
    access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_max_body_size 0; client_body_buffer_size 8m; client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy; fastcgi_temp_path $folder/fast;
    uwsgi_temp_path $folder/uw; scgi_temp_path $folder/sc;
    server {
        listen 127.0.0.1:$port backlog=1024;
        location /v1/models { return 200 '{"object":"list","data":[{"id":"nothing","object":"model"}]}'; }
        location / { return 200 '$answer'; }
    }
}
""")
ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1795231089,"model":"nothing","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"a small red triangle left of a small green square"},'
    '"finish_reason":"stop"}],"usage":{"prompt_tokens":66,"completion_tokens":15,"total_tokens":81}}'
)
ALTGATE = Template("""
[server]
workers = $workers
[images]
handover = "$handover"
[engines]
preload = []
[models.$model]
engine = "remote"
urls = ["$upstream/v1"]
""")
LITELLM = Template("""
model_list:
  - model_name: $model
    litellm_params: {model: openai/$model, api_base: $upstream/v1, api_key: none}
litellm_settings:
  telemetry: false
  $cache
""")
LITELLM_CACHE = "cache: true\n  cache_params: {type: local}"
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}
QUIET |= {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # altgate asks for no key either


class Service:
    """A process that listens at `url`."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url = url
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Once it has had a first turn, it runs only in its turns: what idles takes some of the core, too."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """Ends it, and waits until it has."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        self._process.wait()

    @property
    def memory(self) -> int:
        """The bytes of it that are in memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0


@contextmanager
def upstream(folder: Path, core: int) -> Iterator[Service]:
    """nginx with one completion for all who ask."""
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.substitute(folder=folder, port=port, answer=ANSWER))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    with running(
        [nginx, "-c", str(folder / "nginx.conf")], folder / "upstream", port=port, core=core, path="/v1/models"
    ) as service:
        yield service


@contextmanager
def altgate(folder: Path, core: int | str, behind: Service, handover: str, *, workers: int = 1) -> Iterator[Service]:
    """The gateway, in front of it, on that core or, as in "0,1", several."""
    port = free_port()
    folder.mkdir()
    settings = ALTGATE.substitute(handover=handover, workers=workers, model=MODEL, upstream=behind.url)
    (folder / "altgate.toml").write_text(settings)
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", str(port)]
    with running(command, folder, port=port, core=core, path="/ready") as service:
        yield service


@contextmanager
def bare(folder: Path, core: int, behind: Service) -> Iterator[Service]:
    """uvicorn and aiohttp, and nothing else."""
    port = free_port()
    command = [sys.executable, "-m", "bench.gateway.bare", str(port), f"{behind.url}/v1/chat/completions"]
    with running(command, folder, port=port, core=core, path="/") as service:
        yield service


@contextmanager
def litellm(folder: Path, core: int, behind: Service, program: Path, *, cached: bool) -> Iterator[Service]:
    """LiteLLM's proxy, one worker, with its local cache or without any."""
    port = free_port()
    folder.mkdir()
    cache = LITELLM_CACHE if cached else "cache: false"
    (folder / "config.yaml").write_text(LITELLM.substitute(model=MODEL, upstream=behind.url, cache=cache))
    command = [
        str(program),
        "--config",
        "config.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    with running(command, folder, port=port, core=core, path="/health/liveliness", environ=QUIET) as service:
        yield service


def free_port() -> int:
    """A port that nobody listens on now."""
    with create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    *,
    port: int,
    core: int | str,
    path: str,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """The command on that core, once it answers at `path`, until the context ends; its log lies in the folder."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
    with (folder / "output").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), *command], stdout=log, stderr=log, cwd=folder, env=environment
        )
    service = Service(f"http://127.0.0.1:{port}", process)
    try:
        _wait(f"{service.url}{path}", process, folder / "output")
        yield service
    finally:
        service.end()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer:\n{log.read_text()[-2000:]}")
