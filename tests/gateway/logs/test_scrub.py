"""What libraries and engines say loses its secrets, and cannot pass for something else."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.logs.scrub import printable, scrubbed

PICTURE = base64.b64encode(bytes(range(256)) * 4).decode()
KEY = "ag-" + "aB3_" * 10


@pytest.mark.parametrize(
    ("said", "written"),
    [
        (f"cannot load data:image/png;base64,{PICTURE} now", "cannot load data:image/png;base64,… now"),
        ("'data:;base64,QUJD'", "'data:;base64,…'"),
        ("DATA:text/plain;charset=utf-8,secret%20words", "DATA:text/plain;charset=utf-8,…"),
        (f"got {PICTURE}", "got …"),
        (PICTURE[:64], PICTURE[:64]),
        (f"key {KEY}: unknown", "key ag-…: unknown"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer …"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic …"),
        ("sk-1234567890 hf_abcdefghij", "sk-… hf_…"),
        ("GET https://a.example/b.png?token=s3cret#x failed", "GET https://a.example/b.png?… failed"),
        ("http://user:s3cret@a.example/", "http://…@a.example/"),
        ("redis://:s3cret@host:6379/0?password=s3cret", "redis://…@host:6379/0?…"),
        ("what? no: nothing", "what? no: nothing"),
        ("http://a.example/b.png", "http://a.example/b.png"),
        ("a line of vLLM: 12/12 [00:01<00:00]", "a line of vLLM: 12/12 [00:01<00:00]"),
    ],
)
def test_secrets_are_blotted_out(said: str, written: str) -> None:
    """And nothing else is: a log that says nothing is of no use."""
    assert scrubbed(said) == written


def test_digests_stay() -> None:
    """A picture is known by its digest, in the log as well."""
    digest = hashlib.sha256(b"").hexdigest()

    assert scrubbed(f"picture {digest}") == f"picture {digest}"


@pytest.mark.parametrize(
    "text", ["data:" + ";a=b" * 50_000, "http://" + "a" * 200_000, "x:" * 100_000, "://@?" * 40_000]
)
def test_nothing_takes_long(text: str) -> None:
    """However a line is made, reading it takes a time that grows with its length alone."""
    assert len(scrubbed(text)) <= len(text) + 1


@given(st.text())
def test_no_text_can_pass_for_a_line_of_the_log(text: str) -> None:
    """Control characters, which move a terminal's cursor or begin a line, are shown and not obeyed."""
    first, *others = printable(text).split("\n")

    assert all(line.startswith("    ") for line in others)
    assert not [
        character for character in f"{first}{''.join(others)}" if character < " " or "\x7f" <= character <= "\x9f"
    ]


def test_what_is_escaped_can_be_read() -> None:
    """As Python writes it."""
    assert printable("a\x1b[31m\r\nb\u202ec\x00é") == "a\\x1b[31m\\r\n    b\\u202ec\\x00é"
