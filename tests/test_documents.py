"""The README says what happens."""

import json
import re
from pathlib import Path
from typing import Any

from tests.flows.raw import send
from tests.services import Server

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FRESH = {"id", "created"}


def without(value: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The object without those members."""
    return {name: member for name, member in value.items() if name not in names}


def test_the_readmes_answer_is_the_answer(server: Server) -> None:
    """The JSON in the README is what its curl command prints, but for the id and the time."""
    shown = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert shown is not None

    answer = send(server, "POST", "/v1/chat/completions", (ROOT / "engines/demo/request.json").read_bytes()).json()

    assert without(answer, FRESH) == without(json.loads(shown[1]), FRESH)


def test_every_file_that_the_documents_link_to_exists() -> None:
    """No link of ours leads nowhere."""
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (ROOT / target).exists(), f"{document.name}: {target}"


def test_every_command_of_the_readme_exists() -> None:
    """The `make` targets, the `bench` commands and the `altgate` commands that are named are there."""
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in re.findall(r"make (\w+)`", README))
    assert all((ROOT / command).exists() for command in re.findall(r"python (bench/\w+\.py)", README))
    commands = set(re.findall(r"^\$ altgate (\w+)", README, re.MULTILINE))
    assert commands == {"caption", "models", "check", "keys", "cache", "usage"}
