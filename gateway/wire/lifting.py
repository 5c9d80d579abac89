"""Pictures kept out of JSON's way: their base64, nearly all of most bodies, is neither unescaped nor escaped.

A data URL has no character that JSON writes otherwise, so that a stub can take its place in the body, and the URL that
of the stub. A body is read as it would be read whole, but for raw control characters inside of a data URL, which JSON
forbids: base64 has line breaks, and what is wrong with others the reader of the URL says.
"""

import secrets
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from gateway.wire.answers import encode
from gateway.wire.requests import ChatRequest, Part, PicturePart

STUB = f"altgate-picture-{secrets.token_hex(8)}-"  # which no client knows, and could write with escapes
_MARK = STUB.encode()
_OPENING = b'"data:'
_LONG = 4096  # bytes; shorter ones are not worth it


def lifted(body: bytes) -> tuple[bytes, list[str]]:
    """The body with stubs in the places of long data URLs, and these, by the numbers of their stubs.

    A body that has a stub of its own comes back as it is.
    """
    pieces, urls, at = list[bytes](), list[str](), 0
    start = body.find(_OPENING)
    while start >= 0:
        end = body.find(b'"', start + 1)
        if end - start > _LONG and (url := _plain(body, start, end)) is not None:
            pieces.append(b"%b%b%d" % (body[at : start + 1], _MARK, len(urls)))
            urls.append(url)
            at = end
        start = body.find(_OPENING, end) if end >= 0 else end
    if not urls:
        return body, []
    brief = b"".join([*pieces, body[at:]])
    return (brief, urls) if brief.count(_MARK) == len(urls) else (body, [])


def _plain(body: bytes, start: int, end: int) -> str | None:
    """The text between two quotes, None where it has escapes."""
    if body.find(b"\\", start, end) >= 0:
        return None
    try:
        return str(memoryview(body)[start + 1 : end], "ascii")
    except UnicodeDecodeError:
        return None


def stub(number: int) -> str:
    """What stands for the URL of that number."""
    return f"{STUB}{number}"


def encode_request(request: ChatRequest) -> bytes:
    """The request as JSON, quickly where its pictures are data URLs."""
    urls: list[str] = []
    messages = [replace(message, content=_stubbed(message.content, urls)) for message in request.messages]
    if not urls:
        return encode(request)
    pieces = encode(replace(request, messages=messages)).split(b'"' + _MARK)
    if len(pieces) != len(urls) + 1:  # a client's words are such
        return encode(request)
    return b"".join(_set_in(pieces, urls))


def _stubbed(parts: list[Part], urls: list[str]) -> list[Part]:
    stubbed = []
    for part in parts:
        if isinstance(part, PicturePart) and part.image_url.url.startswith("data:"):
            urls.append(part.image_url.url)
            part = replace(part, image_url=replace(part.image_url, url=stub(len(urls))))  # noqa: PLW2901
        stubbed.append(part)
    return stubbed


def _set_in(pieces: Sequence[bytes], urls: Sequence[str]) -> Iterator[bytes]:
    """The pieces, that were parted at the stubs, with the URLs between them."""
    yield pieces[0]
    for url, piece in zip(urls, pieces[1:], strict=True):
        yield b'"'
        yield url.encode("ascii")
        yield piece[piece.index(b'"') :]
