"""POST /v1/chat/completions, whole and streamed.

The handler speaks ASGI itself: a framework's request and response took longer than all that is done here.
"""

import re
from collections.abc import Iterable, Sequence
from functools import partial

from litestar import asgi
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway import directives, streaming, wire
from gateway.captioning import Captioner, Job
from gateway.errors import BodyTooLarge, GatewayError, InvalidRequest, Overloaded
from gateway.middleware import allowance_of, hold_of, record_of
from gateway.record import Record
from gateway.routes.presence import ClientLeft, Presence
from gateway.routes.reply import Reply

PATHS = ["/v1/chat/completions", "/chat/completions"]
MAX_IGNORED = 20

Headers = Iterable[tuple[bytes, bytes]]


def route(captioner: Captioner, *, heartbeat: float, longest_wait: float, max_body: int) -> ASGIRouteHandler:
    """The handler. Times are in seconds; `longest_wait` bounds what a client may ask for, `max_body` is in bytes."""

    @asgi(PATHS, copy_scope=False)
    async def create(scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a chat completion, which is what limits count: one that there was no room for costs nothing."""
        _ensure_post(scope)
        allowance = allowance_of(scope)
        await allowance.begin()
        try:
            await answered(scope, receive, send)
        except Overloaded:
            await allowance.waive()
            raise

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).enter("receive")
        asked, ignored = decoded(await received(scope, receive, max_body), record_of(scope))
        is_streamed = bool(asked.stream)
        reply = Reply(send, streamed=is_streamed)
        try:
            async with Presence(scope):
                job = await prepared(scope, asked)
                del asked  # which has the pictures as they were written; the engine may take its time
                reply.headers = partial(_headers, job, ignored)
                rest = await (streamed(job, reply) if is_streamed else whole(job))
        except ClientLeft:
            if reply.begun:
                return  # nobody is there to be told
            raise
        await reply.end(rest)

    async def prepared(scope: Scope, asked: wire.ChatRequest) -> Job:
        record, hold, wishes = record_of(scope), hold_of(scope), _wishes(scope["headers"], longest_wait)
        await allowance_of(scope).take_pictures(len(wire.pictures_of(asked)))
        return await captioner.prepare(asked, record.caller, wishes, hold=hold, record=record)

    async def whole(job: Job) -> bytes:
        return wire.encode(await captioner.answer(job))

    async def streamed(job: Job, reply: Reply) -> bytes:
        """Sends the answer as it is made, but for its end, which comes back."""
        await streaming.tell(captioner.stream(job), reply.piece, heartbeat=heartbeat, failed=partial(_note, job.record))
        return wire.DONE

    return create


async def received(scope: Scope, receive: Receive, most: int) -> bytes:
    """The body, once all of it is here.

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
    return b"".join(blocks)


def _ensure_small(size: int, most: int) -> None:
    if size > most:
        raise BodyTooLarge(f"The body is larger than {most / 2**20:.0f} MiB, the limit set by 'server.max_body'.")


def _announced(headers: Headers) -> int:
    """The body's size, where the client says it beforehand."""
    lengths = (value for name, value in headers if name == b"content-length")
    return int(next(lengths, b"0"))


def decoded(body: bytes, record: Record) -> tuple[wire.ChatRequest, list[str]]:
    """The request in closed types, and its fields that are ignored.

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
    return asked, ignored


def _ensure_post(scope: Scope) -> None:
    if scope.get("method") != "POST":
        raise MethodNotAllowedException(headers={"Allow": "POST"})


def _note(record: Record, error: GatewayError) -> None:
    record.error = error.code


def _wishes(headers: Headers, longest_wait: float) -> directives.Directives:
    asked = {wanted: [value for name, value in headers if name == wanted] for wanted in (b"cache-control", b"prefer")}
    if not any(asked.values()):
        return directives.NO_DIRECTIVES
    cache_control, prefer = (b",".join(values).decode("latin-1") for values in asked.values())
    return directives.read(cache_control=cache_control, prefer=prefer, longest_wait=longest_wait)


def _headers(job: Job, unknown: Sequence[str]) -> dict[str, str]:
    """What is known of the answer when it begins."""
    headers: dict[str, str] = {"x-altgate-cache": job.record.cache or "bypass", **directives.applied(job.wait)}
    if job.age is not None:
        headers["age"] = str(job.age)
    if job.record.notes:
        headers["x-altgate-image"] = ", ".join(job.record.notes)
    # A name that could break a header is not repeated in one.
    ignored = [name for name in unknown if re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII)]
    if ignored:
        headers["x-altgate-ignored"] = ", ".join(ignored[:MAX_IGNORED])
    return headers
