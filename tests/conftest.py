"""What many tests share: one Altgate, running as a separate process with the demo model."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from openai import OpenAI
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from engines.demo import scenes
from tests import pictures
from tests.services import Server, running_server

# Properties are tried with the same examples every time, however busy the machine.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# Tests run on the processor, also where there is a GPU: words and health are told as they are there.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

REAL_VLLM = ("tests/engines/cogvlm/", "tests/engines/vllm/", "tests/flows/test_cogvlm", "tests/flows/test_vllm")


class Together(LoadScopeScheduling):  # type: ignore[misc] # which has no types
    """Keeps the tests of a file in one process, and all that run vLLM, of which one at a time fits the machine."""

    def _split_scope(self, nodeid: str) -> str:
        return "vllm" if nodeid.startswith(REAL_VLLM) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Who shares the tests out where they run in several processes."""
    return Together(config, log)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's own shell reaches a test."""
    for name in [*os.environ]:
        if name.startswith(("ALTGATE_", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def no_state_kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What gateways keep under a user's home is kept elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for programs whose sockets lie below their TMPDIR: the name of a socket has 107 bytes at most."""
    with TemporaryDirectory(prefix="t-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Altgate on its defaults."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[OpenAI]:
    """OpenAI's own client, with the two lines changed."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as openai:
        yield openai


@pytest.fixture(scope="session")
def known(client: OpenAI) -> list[tuple[bytes, str]]:
    """Scenes that the demo model describes rightly, each as a PNG with its caption; there are at least fifty."""
    right: list[tuple[bytes, str]] = []
    for scene in pictures.SCENES[:100]:
        png = pictures.png(scene)
        messages = [pictures.message(pictures.data_url(png))]
        answer = client.chat.completions.create(model="demo", messages=messages)  # type: ignore[arg-type]
        if answer.choices[0].message.content == scenes.caption(scene):
            right.append((png, scenes.caption(scene)))
    assert len(right) >= 50
    return right
