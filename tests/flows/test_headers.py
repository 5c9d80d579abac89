"""What is asked and told in headers."""

from typing import Any

import pytest

from tests.flows.raw import chat
from tests.services import Server


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=20", "wait=20"),
        ('respond-async, Wait="5"; x=y', "wait=5"),
        ("wait=soon", None),
        ("respond-async", None),
        ("wait=999999", "wait=600"),
    ],
)
def test_a_preference_to_wait_is_confirmed(server: Server, prefer: str, applied: str | None) -> None:
    """In RFC 7240's words; what is malformed is ignored, what is too long is cut."""
    answer = chat(server, {"prefer": prefer})

    assert answer.status == 200
    assert answer.headers.get("preference-applied") == applied


def test_fields_that_are_ignored_are_named(server: Server) -> None:
    """Those of other servers' own; those that Altgate passes on to engines that know them are not among them."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    known: dict[str, Any] = {"tools": tools, "tool_choice": "none", "parallel_tool_calls": False, "logprobs": None}

    answer = chat(server, **known, chat_template="x", mm_processor_kwargs={}, uuid="x", cache_salt="x")

    assert answer.status == 200
    assert answer.headers["x-altgate-ignored"] == "cache_salt, chat_template, mm_processor_kwargs, uuid"
