"""What is asked and told in headers."""

from typing import Any

import pytest

from engines.demo import scenes
from tests import pictures
from tests.flows.raw import chat
from tests.services import Server, wait_for_log


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


def test_what_was_done_to_a_picture_is_told(server: Server) -> None:
    """Size, format and orientation as it came, and the size that the model saw: in a header, also for an answer out of
    the cache, and in the log.
    """
    scene = scenes.draw(pictures.SCENES[7], 300).resize((300, 200))
    turned = pictures.encoded(scene, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
    messages = [pictures.message(pictures.data_url(turned, "image/jpeg"))]
    done = "300x200 jpeg exif=6 -> 96x96 fast"

    told = [chat(server, messages=messages).headers for _ in range(2)]

    assert [each["x-altgate-cache"] for each in told] == ["miss", "hit"]
    assert [each["x-altgate-image"] for each in told] == [done, done]
    wait_for_log(server, f"{told[0]['x-request-id']} - {done}")


def test_words_alone_are_told_nothing_of_pictures(server: Server) -> None:
    """There was none."""
    answer = chat(server, messages=[pictures.message()])

    assert "x-altgate-image" not in answer.headers
