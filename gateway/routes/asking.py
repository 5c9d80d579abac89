"""From the bytes of a chat completion to a request made ready: known again, or read."""

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from litestar.types import Receive, Scope

from gateway import directives, wire
from gateway.captioning import Captioner, Job
from gateway.directives import NO_DIRECTIVES, Directives
from gateway.errors import BodyTooLarge, InvalidRequest
from gateway.middleware import allowance_of, hold_of, record_of
from gateway.recall import Recall
from gateway.record import Record
from gateway.routes.presence import ClientLeft

MAX_IGNORED = 20
PRESENTABLE = re.compile(r"[\w.-]{1,64}", re.ASCII)  # a name that could break a header is not repeated in one

Headers = Iterable[tuple[bytes, bytes]]
Prepared = tuple[Job, Sequence[str]]
"""A request made ready, and its fields that are ignored, as many as are told."""


class Asking:
    """Makes requests ready; a client may ask to wait for `longest_wait` seconds at most."""

    def __init__(self, captioner: Captioner, recall: Recall, *, longest_wait: float) -> None:
        self._captioner = captioner
        self._recall = recall
        self._longest_wait = longest_wait

    async def prepared(self, scope: Scope, blocks: list[bytes]) -> Prepared:
        """The request whose body came in these blocks, which are given up: they have the pictures as they were written.

        Its pictures are charged before its answer is looked up.

        Raises:
            GatewayError: it cannot be read or used, or its key's limits have been reached.
        """
        record, wishes = record_of(scope), _wishes(scope["headers"], self._longest_wait)
        known = self._recall.find(record.caller, blocks) if wishes is NO_DIRECTIVES else None
        if known is not None:
            await allowance_of(scope).take_pictures(known.pictures)
            job = await self._recall.job(known, record)
            if job is not None:
                blocks.clear()
                return job, known.ignored
        body = b"".join(blocks)
        blocks.clear()
        asked, ignored = _decoded(body, record)
        if known is None:
            await allowance_of(scope).take_pictures(len(wire.pictures_of(asked)))
        job = await self._captioner.prepare(asked, record.caller, wishes, hold=hold_of(scope), record=record)
        self._recall.note(body, job, ignored)
        return job, ignored


async def received(scope: Scope, receive: Receive, most: int) -> list[bytes]:
    """The body's blocks, once all of it is here.

    Raises:
        BodyTooLarge: it has more than `most` bytes.
        RequestTimeout: it took too long.
        ClientLeft: the client broke off.
    """
    blocks, size, is_whole = list[bytes](), 0, False
    _ensure_small(_announced(scope["headers"]), most)
    while not is_whole:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft("The client broke off.")
        blocks.append(message["body"])
        size += len(message["body"])
        _ensure_small(size, most)
        is_whole = not message["more_body"]
    return blocks


def _ensure_small(size: int, most: int) -> None:
    if size > most:
        raise BodyTooLarge(f"The body is larger than {most / 2**20:.0f} MiB, the limit set by 'server.max_body'.")


def _announced(headers: Headers) -> int:
    """The body's size, where the client says it beforehand."""
    lengths = (value for name, value in headers if name == b"content-length")
    return int(next(lengths, b"0"))


def _decoded(body: bytes, record: Record) -> tuple[wire.ChatRequest, list[str]]:
    """The request in closed types, and its fields that are ignored, as many as are told.

    Raises:
        InvalidRequest: it cannot be read; `param` names the field.
    """
    record.enter("parse")
    try:
        asked, ignored = wire.read_request(body)
    except wire.Fault as fault:
        raise InvalidRequest.from_fault(fault) from None
    record.streamed = bool(asked.stream)
    record.enter(None)
    return asked, list(islice(filter(PRESENTABLE.fullmatch, ignored), MAX_IGNORED))


def _wishes(headers: Headers, longest_wait: float) -> Directives:
    asked = {wanted: [value for name, value in headers if name == wanted] for wanted in (b"cache-control", b"prefer")}
    if not any(asked.values()):
        return NO_DIRECTIVES
    cache_control, prefer = (b",".join(values).decode("latin-1") for values in asked.values())
    return directives.read(cache_control=cache_control, prefer=prefer, longest_wait=longest_wait)
