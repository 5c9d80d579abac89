"""What the tests of fetching share: answers to send, names that resolve as told, and a record of what was dialled."""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, cast

import pytest

from gateway.config import ImagesConfig
from gateway.errors import PictureError, render
from gateway.images import refusal
from gateway.images.fetch import Fetcher

PARAM = "messages[0].content[1].image_url.url"
UNREACHABLE = refusal.unreachable(PARAM, ImagesConfig().formats)
BODY = b"\x89PNG\r\n\x1a\n, or so it says"


def answer(body: bytes = BODY, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer, the last on its connection; its Content-Length is right unless `headers` give one."""
    lengths = (
        [] if any("ength" in header or "chunked" in header for header in headers) else [f"Content-Length: {len(body)}"]
    )
    return "\r\n".join((f"HTTP/1.1 {status}", "Connection: close", *lengths, *headers, "", "")).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    """A redirect without a body."""
    return answer(b"", f"Location: {location}", status=f"{status} Found")


async def refused(fetcher: Fetcher, url: str) -> PictureError:
    """The error with which the URL is refused."""
    with pytest.raises(PictureError) as caught:
        print(repr(url), await fetcher.fetch(url, param=PARAM))  # shown where it is fetched after all
    assert caught.value.param == PARAM
    assert caught.value.status == 400
    return caught.value


async def assert_unreachable(fetcher: Fetcher, url: str) -> PictureError:
    """The URL is refused with the one sentence that all failures of the network share."""
    error = await refused(fetcher, url)
    assert render(error) == render(UNREACHABLE), url
    return error


class FakeDns:
    """Answers each name with the next of its answers, the last one for ever; other names are unknown."""

    def __init__(self, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers = {name: list(rest) for name, rest in answers.items()}
        self.questions = 0

    async def __call__(self, host: str) -> list[str]:
        self.questions += 1
        if host not in self._answers:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not known")
        answers = self._answers[host]
        return list(answers.pop(0) if len(answers) > 1 else answers[0])


_watching: list[list[str]] = []


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _watching and args[0].type & 0xF == socket.SOCK_STREAM:
        _watching[-1].append(str(args[1]))


sys.addaudithook(_watch)


@contextmanager
def watched_dialling() -> Iterator[list[str]]:
    """Every address to which this process starts a TCP connection in the meantime, as the interpreter sees it."""
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


# What a name server answers: addresses, None for no answer at all, or a code such as NXDOMAIN.
Reply = list[str] | int | None
SERVFAIL, NXDOMAIN = 2, 3
_A, _CNAME, _AAAA = 1, 5, 28


class NameServer(asyncio.DatagramProtocol):
    """A name server for UDP: each name has a function that is asked for every reply; all replies may live 0 seconds.

    An answer that is no address is another name, to which the next one belongs.
    """

    def __init__(self, zone: Mapping[str, Callable[[], Reply]]) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        name, end = _read_name(data, 12)
        (kind,) = struct.unpack_from(">H", data, end)
        reply = self._zone.get(name, lambda: NXDOMAIN)()
        if reply is None:
            return
        code, records = (reply, []) if isinstance(reply, int) else (0, _records(name, reply, kind))
        head = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        self._transport.sendto(head + data[12 : end + 4] + b"".join(records), addr)


def _records(name: str, answers: Sequence[str], kind: int) -> list[bytes]:
    records = []
    for text in answers:
        try:
            address = ip_address(text)
        except ValueError:
            records.append(_record(name, _CNAME, _write_name(text)))
            name = text
        else:
            if kind == (_A if address.version == 4 else _AAAA):
                records.append(_record(name, kind, address.packed))
    return records


def _record(name: str, kind: int, data: bytes) -> bytes:
    return _write_name(name) + struct.pack(">HHIH", kind, 1, 0, len(data)) + data


def _write_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := data[at]:
        labels.append(data[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels), at + 1
