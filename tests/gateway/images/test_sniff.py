"""What bytes are called that are no picture: who reads it shall know what was sent instead."""

import base64
import gzip
import time

import pytest

from gateway.images.sniff import recognise, sniff

from . import made

PAGES = [
    "<!DOCTYPE html><p>Log in", "<HTML>", "\n\n  <!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
    "<!-- saved --><!-- again -->\n<script>location='/login'</script>", "<meta charset=utf-8><title>403", "<h1>403",
    "<div id=app></div>", "<style>p{}</style>", "<br>", "<title>Just a moment...</title>",
    '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x"><html/>',
    '<?xml version="1.0"?><!-- x --><html xmlns="http://www.w3.org/1999/xhtml"/>', "\ufeff<html>",
]  # fmt: skip
OTHERS = {
    "an SVG drawing": [b"<svg/>", b"<?xml version='1.0'?>\n<!-- x --><!DOCTYPE svg PUBLIC ''><svg>", b"<!DOCTYPE svg>"],
    "an XML document": [b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"],
    "a PDF document": [b"%PDF-1.7", b"\n%PDF-1.4"],
    "a PostScript drawing (EPS)": [b"%!PS-Adobe-3.0 EPSF-3.0", b"\xc5\xd0\xd3\xc6" + bytes(30)],
    "a Photoshop document": [b"8BPS\0\1" + bytes(30)],
    "a JPEG 2000 picture": [b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51" + bytes(30)],
    "a video": [b"\0\0\0\x20ftypisom", b"\0\0\0\x14ftypqt  ", b"\x1aE\xdf\xa3" + bytes(30), b"RIFF\1\2\3\4AVI LIST"],
    "a BigTIFF picture": [b"II+\0\x08\0\0\0"],
    "an icon (ICO)": [b"\0\0\1\0\1\0"],
    "a JPEG XL picture": [b"\xff\x0a" + bytes(30), b"\0\0\0\x0cJXL \r\n\x87\n"],
    "a ZIP archive or an office document": [b"PK\3\4" + bytes(30), b"PK\5\6" + bytes(18)],
    "data compressed with gzip": [gzip.compress(made.PICTURES["png"]), gzip.compress(b"<svg/>")],
    "base64 text, encoded once too often": [
        *(base64.b64encode(made.PICTURES[kind]) for kind in ("jpeg", "png", "gif", "webp")),
        b"data:image/png;base64,AAAA",
    ],
    "a pointer of Git LFS and not the file that it stands for": [b"version https://git-lfs.github.com/spec/v1\noid x"],
    "a JSON document": [b'{"error": "not found"}', b"[]", b" { }"],
    "plain text": [b"Not found\n", b"<3 you", b"<abbr>", b"data: none"],
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_known_by_what_browsers_know_them_by(page: str) -> None:
    """Not all begin with a doctype: walls before a picture are made of scripts and titles."""
    assert recognise(page.encode()) == "an HTML page"


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_often_sent_instead_has_a_name(name: str) -> None:
    """None is taken for a picture, either."""
    for data in OTHERS[name]:
        assert recognise(data) == name, data[:20]
        assert sniff(data) is None


def test_what_is_unheard_of_has_no_name() -> None:
    """Nobody guesses."""
    for data in (b"", bytes(99), b"\x89", b"\1\xda\0\1", b"caf\xc3\xa9"):
        assert recognise(data) is None


def test_no_beginning_stalls_the_naming() -> None:
    """Comments, prologues and blanks that seem to begin again and again cost no time."""
    for piece in (b"<!---->", b"<!--", b"<?xml ", b"<!-- -->\n", b"\n", b"[", b"<"):
        began = time.process_time()
        recognise(piece * 1000)
        assert time.process_time() - began < 0.1, piece
