"""Pictures inside the request, in the forms in which real clients write them."""

import base64
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import PictureError
from gateway.images import data_url

from .made import DEFAULT

PARAM = "messages[0].content[1].image_url.url"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2 + b"\xff\xfe\xfb\xef"
PLAIN = base64.b64encode(PICTURE).decode()
URL_SAFE = PLAIN.translate(str.maketrans("+/", "-_"))
WRAPPED = base64.encodebytes(PICTURE).decode()


def decode(text: str, max_bytes: int = 2**20) -> bytes:
    """The bytes in the text."""
    return data_url.decode(text, param=PARAM, max_bytes=max_bytes, formats=DEFAULT)


def refused(text: str, max_bytes: int = 2**20) -> PictureError:
    """The error with which the text is refused."""
    with pytest.raises(PictureError) as caught:
        decode(text, max_bytes)
    assert caught.value.param == PARAM
    assert PARAM in caught.value.message
    return caught.value


def test_the_sample_uses_every_form() -> None:
    """The picture has padding and both of the letters in which the alphabets differ."""
    assert PLAIN.endswith("=")
    assert URL_SAFE.translate(str.maketrans("-_", "+/")) == PLAIN != URL_SAFE


@pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/png;BASE64,", "data:;base64,", ""])
@pytest.mark.parametrize(
    "payload",
    [
        PLAIN,
        PLAIN.rstrip("="),
        URL_SAFE,
        URL_SAFE.rstrip("="),
        WRAPPED,
        WRAPPED.replace("\n", "\r\n"),
        PLAIN + "\n",
        PLAIN[:40] + " " + PLAIN[40:],
    ],
)
def test_forms_of_base64(head: str, payload: str) -> None:
    """Missing padding, the URL-safe alphabet, line breaks and spaces are read, in data URLs and bare."""
    assert decode(head + payload) == PICTURE


@pytest.mark.parametrize(
    "head",
    ["data:image/jpg;base64,", "data:text/html;base64,", "data:image/png;charset=utf-8;base64,", "Data:x;Base64,",
     "data:application/octet-stream; base64 ,", "data:image/jpeg;name=a.jpg;base64,"],
)  # fmt: skip
def test_the_label_is_not_looked_at(head: str) -> None:
    """The media type may be wrong, unheard of or missing, parameters may precede `;base64`: the bytes decide."""
    assert decode(head + PLAIN) == PICTURE


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("data:image/png;base64", "a value without a comma before its data"),
        ("data:", "a value without a comma before its data"),
        ("data:" + "a" * 2000 + ";base64," + PLAIN, "a value without a comma before its data"),
        ("data:image/png," + PLAIN, "a value without the ';base64' separator"),
        ("data:base64," + PLAIN, "a value without the ';base64' separator"),
        ("data:image/png;base64;x," + PLAIN, "a value without the ';base64' separator"),
        ("data:image/svg+xml;utf8,%3Csvg%3E", "a value without the ';base64' separator"),
        ("data:image/png;base64," + PLAIN + "=", "an invalid base64-encoded value"),
        ("data:image/png;base64," + PLAIN + "==", "an invalid base64-encoded value"),
        ("data:image/png;base64," + PLAIN + "===", "an invalid base64-encoded value"),
        ("data:image/png;base64," + PLAIN[:8] + "==" + PLAIN[8:], "an invalid base64-encoded value"),
        ("data:image/png;base64,A", "an invalid base64-encoded value"),
        ("data:image/png;base64,=", "an invalid base64-encoded value"),
        ("data:image/png;base64,====", "an invalid base64-encoded value"),
        ("data:image/png;base64," + PLAIN[:8] + "\0" + PLAIN[8:], "an invalid base64-encoded value"),
        ("data:image/png;base64,\ufeff" + PLAIN, "an invalid base64-encoded value"),
        ("data:image/png;base64,é" + PLAIN, "an invalid base64-encoded value"),
        ("data:image/png;base64,\uff21" + PLAIN, "an invalid base64-encoded value"),
        ("data:image/png;base64,\ud800" + PLAIN, "an invalid base64-encoded value"),
        ("data:image/png;base64,data:image/png;base64," + PLAIN, "an invalid base64-encoded value"),
        ("data:image/png;base64," + PLAIN.replace("=", "%3D"), "an invalid base64-encoded value"),
    ],
)
def test_what_is_no_base64(text: str, got: str) -> None:
    """Nothing is skipped or guessed: the sentence shows the right form and says what was found."""
    error = refused(text)
    assert error.code == "invalid_base64_image"
    assert error.message.endswith(f"(e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU='), but got {got}.")


@pytest.mark.parametrize("payload", ["", " ", "\r\n"])
def test_nothing_is_named(payload: str) -> None:
    """A data URL without data is empty, not invalid."""
    assert refused("data:image/png;base64," + payload).code == "empty_image_file"


@pytest.mark.parametrize(
    "text",
    ["", "   ", "null", "file:///etc/passwd", "ftp://good.example/a.png", "s3://bucket/key", "gs://bucket/key",
     "blob:x", "/etc/passwd", "/home/me/photo.jpg", "C:\\photo.jpg", "photo.jpg", "//127.0.0.1/", "javascript:alert(1)",
     "AAAA", base64.b64encode(b"<html>").decode(), base64.b64encode(PLAIN.encode()).decode()],
)  # fmt: skip
def test_what_is_neither_url_nor_picture(text: str) -> None:
    """Paths, other schemes and words are refused with the accepted forms; base64 alone must hold a picture."""
    error = refused(text)
    assert error.code == "invalid_image_url"
    assert "an http(s) URL, a data URL such as 'data:image/png;base64," in error.message


@pytest.mark.parametrize("blanks", [" ", "\n", "\t\r\n "])
@pytest.mark.parametrize(
    "url", ["data:image/png;base64," + PLAIN, "http://good.example/a.png", "HTTPS://good.example/"]
)
def test_white_space_before_a_url_is_named(blanks: str, url: str) -> None:
    """Templates and files leave it there; it cannot be seen, and everything else about the URL is right."""
    error = refused(blanks + url)
    assert error.code == "invalid_image_url"
    assert error.message == f"The URL at '{PARAM}' begins with white space; remove it."


def test_trailing_bits_do_not_make_another_picture() -> None:
    """Base64 that ends in bits without meaning is read: the same bytes, hence the same digest and cache entry."""
    assert decode("data:;base64,QQ==") == decode("data:;base64,QR==") == decode("data:;base64,QR") == b"A"


@pytest.mark.parametrize("head", ["data:image/png;base64,", ""])
def test_the_length_is_checked_before_decoding(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too long is refused unread, with the limit named; white space does not count."""
    assert decode(head + WRAPPED, len(PICTURE)) == PICTURE
    monkeypatch.delattr("pybase64.b64decode")
    for payload in (PLAIN, PLAIN.rstrip("="), WRAPPED, URL_SAFE):
        error = refused(head + payload, len(PICTURE) - 1)
        assert error.code == "image_file_too_large"
        assert f"at most {len(PICTURE) - 1} bytes" in error.message


@given(
    st.binary(min_size=1, max_size=64), st.integers(1, 64), st.sampled_from([str.strip, lambda text: text.rstrip("=")])
)
def test_the_limit_is_exact(data: bytes, limit: int, spell: Callable[[str], str]) -> None:
    """Exactly the bytes up to the limit are accepted, with and without padding."""
    text = "data:;base64," + spell(base64.b64encode(data).decode())
    if len(data) <= limit:
        assert decode(text, limit) == data
    else:
        assert refused(text, limit).code == "image_file_too_large"


@given(st.text("AQ+/-_= \n", max_size=40))
def test_reading_is_never_looser_than_one_meaning(text: str) -> None:
    """Whatever is accepted is, padding and white space aside, what the standard library reads strictly."""
    try:
        data = decode("data:;base64," + text)
    except PictureError:
        return
    assert data == strictly(text)


def strictly(text: str) -> bytes:
    """What the standard library reads of base64, bare or in a data URL, padding and white space put right."""
    digits = "".join(text.rpartition(",")[2].split()).rstrip("=")
    padded = digits + "=" * (-len(digits) % 4)
    return base64.b64decode(padded.translate(str.maketrans("-_", "+/")), validate=True)


def test_ten_thousand_odd_data_urls_are_read_or_refused() -> None:
    """Heads, alphabets, padding, white space and stray characters in any mixture: the bytes, or one of our errors."""
    draw = random.Random(1)
    outcomes: Counter[str] = Counter()
    for _ in range(10_000):
        text = odd(draw)
        try:
            data = decode(text, 600)
            outcomes["read"] += 1
            assert data == strictly(text)
        except PictureError as error:
            outcomes[str(error.code)] += 1
    codes = {"read", "invalid_base64_image", "invalid_image_url", "image_file_too_large", "empty_image_file"}
    assert set(outcomes) == codes
    assert min(outcomes[code] for code in ("read", "invalid_base64_image", "invalid_image_url")) > 500


def odd(draw: random.Random) -> str:
    """A data URL as no client, some client or a hostile one would write it."""
    head = draw.choice(["data:image/png;base64,", "DATA:;BASE64,", "data:image/png,", "data:", "", " ", "data:;base64"])
    payload = draw.choice([PLAIN, URL_SAFE, WRAPPED, PLAIN[: draw.randrange(len(PLAIN))], "", "data:" + PLAIN])
    for _ in range(draw.choice([0, 0, 0, 1, 3])):
        at = draw.randrange(len(payload) + 1)
        stray = draw.choice(["=", "\n", "\r\n", " ", "%3D", "\0", "é", "\ud800", "+", "-", "A", "\ufeff", ","])
        payload = payload[:at] + stray + payload[at + draw.choice([0, 0, 1]) :]
    return head + payload + draw.choice(["", "", "=", "==", "AAAA" * 200])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("data:image/png;base64,", "PNG"),
        ("DATA:IMAGE/JPEG;base64,", "JPEG"),
        ("data:image/x-ms-bmp;base64,", None),
        ("data:image/x-icon,", "ICON"),
        ("data:image/jpg;base64,", "JPEG"),
        ("data:image/heif;base64,", "HEIC"),
        ("data:text/html;base64,", None),
        ("data:image/" + "a" * 99 + ";base64,", None),
        ("AAAA", None),
    ],
)
def test_the_label_is_read_for_sentences(text: str, label: str | None) -> None:
    """What a client says its picture is, where that is a short word."""
    assert data_url.label(text) == label


def test_white_space_costs_no_memory() -> None:
    """A body full of blanks is refused by its length; what may be lines of base64 takes a few times its own size."""
    head = "data:;base64,"
    for text, limit, times in ((head + "AA " * 2**22, 2**22, 1), (head + "AA " + "A" * 2**22, 3 * 2**20 - 9, 4)):
        tracemalloc.start()
        try:
            assert refused(text, limit).code == "image_file_too_large"
            assert tracemalloc.get_traced_memory()[1] < times * len(text) + 2**16
        finally:
            tracemalloc.stop()


def test_blanks_are_removed_about_as_fast_as_digits_are_read() -> None:
    """15 MB in lines of a quad within a second even on a busy machine (removing them one by one takes several)."""
    text = "data:;base64," + "AAAA " * 5_000_000
    started = time.perf_counter()
    assert len(decode(text, 20_000_000)) == 15_000_000
    assert time.perf_counter() - started < 1


def test_a_large_picture_is_read_in_no_time() -> None:
    """The usual form takes the fast path: 15 MB within 0.3 s even on a busy machine (it takes 5 ms on an idle one)."""
    text = "data:image/png;base64," + base64.b64encode(bytes(15_000_000)).decode()
    started = time.perf_counter()
    assert len(decode(text, 20_000_000)) == 15_000_000
    assert time.perf_counter() - started < 0.3
