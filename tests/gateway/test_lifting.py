"""Pictures take a way around JSON, and nobody can tell."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.wire import lifting

URL = f"data:image/jpeg;base64,{base64.b64encode(bytes(range(256)) * 20).decode()}"
PICTURE = {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}


def body(*parts: dict[str, Any], **fields: Any) -> bytes:
    """A request with those parts."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": list(parts)}], **fields}).encode()


def text(words: str) -> dict[str, Any]:
    """A part with words."""
    return {"type": "text", "text": words}


def url_of(number: int, request: wire.ChatRequest) -> str:
    """The URL of that picture of the request."""
    return wire.pictures_of(request)[number][1].image_url.url


def test_a_long_data_url_does_not_pass_through_json() -> None:
    """What JSON has to look through is as short as if there were no picture."""
    brief, urls = lifting.lifted(body(PICTURE, text("hi"), PICTURE))

    assert urls == [URL, URL]
    assert len(brief) < 400
    assert msgspec.json.decode(brief)["model"] == "m"


def test_pictures_stand_where_they_stood() -> None:
    """Each picture's URL is the one that was sent there, whatever else is around it."""
    other = URL.replace("jpeg", "png")
    parts = (PICTURE, text("between"), {"type": "image_url", "image_url": {"url": other}})
    request = wire.decode_request(body(*parts, {"type": "input_image", "image_url": URL}))

    assert [url_of(at, request) for at in range(3)] == [URL, other, URL]
    assert request.messages[0].content[0] == wire.PicturePart(wire.ImageURL(URL, "low"))


@pytest.mark.parametrize(
    "sent",
    [
        body(text(URL)),
        body(PICTURE, text(URL)),
        body(PICTURE, text(lifting.stub(0))),
        body(PICTURE, text(f'he said "{URL}"')),
        body(PICTURE, text(f'he said "{URL[:-4]}')),
        body(PICTURE, {"type": "image_url", "image_url": {"url": lifting.stub(0)}}),
        body({"type": "image_url", "image_url": {"url": lifting.stub(0)}}, PICTURE),
        body({"type": "image_url", "image_url": {"url": f'x"{URL}'}}),
        body({"type": "image_url", "image_url": {"url": URL + "é"}}),
        body({"type": "image_url", "image_url": {"url": URL + "é"}}).replace(b"/", rb"\/"),
        body(PICTURE).replace(b'"detail"', f'"url": "{URL[:-4]}", "detail"'.encode()),
        body({"type": "image_url", "image_url": {"url": "altgate-picture-0"}}, unknown=URL).replace(
            b"re-", rb"re\u002d"
        ),
        body(PICTURE, user=URL),
        body(PICTURE, **{URL: 1}),
    ],
)
def test_whatever_looks_like_a_picture_or_its_stub_is_read_as_it_was_sent(sent: bytes) -> None:
    """Data URLs where no picture belongs, words that are a stub's, escapes: all is as if JSON had read it whole."""
    content = msgspec.json.decode(sent)["messages"][0]["content"]
    request, ignored = wire.read_request(sent)

    for part, given_part in zip(request.messages[0].content, content, strict=True):
        if isinstance(part, wire.TextPart):
            assert part.text == given_part["text"]
        else:
            assert part.image_url.url == given_part["image_url"]["url"]
    assert set(ignored) == msgspec.json.decode(sent).keys() - set(wire.ChatRequest.__struct_fields__)


@pytest.mark.parametrize(
    "sent",
    [
        body(PICTURE)[:-2],
        body(PICTURE, {"type": URL}),
        body({"type": "image_url", "image_url": {"url": URL, "detail": 1}}),
        body(PICTURE, n=URL),
        b'{"a":"b"' + URL.encode() + b'"}',
        b'"' + URL.encode() + b'"',
        b'"' + URL.encode(),
    ],
)
def test_a_fault_is_told_of_what_was_sent(sent: bytes) -> None:
    """The sentence and the parameter are those of a body that JSON reads whole; no stub is in them."""
    with pytest.raises(wire.Fault) as found:
        wire.read_request(sent)
    with pytest.raises(wire.Fault) as meant:
        wire.read_request(sent.replace(b"data:", b"datA:"))

    assert found.value.message.replace("data:", "datA:") == meant.value.message
    assert found.value.param == meant.value.param


WORDS = st.sampled_from(["a cat", URL, lifting.stub(0), f'"{lifting.stub(1)}', '"data:', URL + '"', "\\", "é"])


@given(st.lists(st.one_of(st.just(PICTURE), WORDS.map(text)), min_size=1, max_size=6))
def test_what_is_sent_to_an_engine_is_what_json_says(parts: list[dict[str, Any]]) -> None:
    """The quick way of encoding gives the bytes of the usual one, for any words beside the pictures."""
    request = wire.decode_request(body(*parts))

    assert wire.encode_request(request) == wire.encode(request)
    assert wire.decode_request(wire.encode_request(request)) == request
