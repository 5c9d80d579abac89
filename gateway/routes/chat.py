"""POST /v1/chat/completions, whole and streamed."""

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from litestar import Request, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import Headers
from litestar.exceptions import InternalServerException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from litestar.types import Receive

from gateway import directives, streaming, wire
from gateway.captioning import Captioner, Job
from gateway.errors import GatewayError, InvalidRequest, Overloaded
from gateway.middleware import allowance_of, hold_of, record_of
from gateway.record import CLIENT_LEFT, Record

PATHS = ["/v1/chat/completions", "/chat/completions"]
MAX_IGNORED = 20

T = TypeVar("T")


class ClientLeft(GatewayError):
    """The client hung up. Nobody will read this; it is for the log."""

    status = CLIENT_LEFT


def route(captioner: Captioner, *, heartbeat: float, longest_wait: float) -> HTTPRouteHandler:
    """The handler. Times are in seconds; `longest_wait` bounds what a client may ask for."""

    @post(PATHS, status_code=200)
    async def create(request: Request[Any, Any, Any]) -> Response[bytes] | Stream:
        """Answers a chat completion, which is what limits count: one that there was no room for costs nothing."""
        allowance = allowance_of(request.scope)
        await allowance.begin()
        try:
            return await answered(request)
        except Overloaded:
            await allowance.waive()
            raise

    async def answered(request: Request[Any, Any, Any]) -> Response[bytes] | Stream:
        job, is_streamed, ignored = await prepared(request)
        if not is_streamed:
            answer = await unless_gone(request.receive, captioner.answer(job))
            return Response(wire.encode(answer), media_type="application/json", headers=_headers(job, ignored))
        chunks = captioner.stream(job)
        first = await unless_gone(request.receive, streaming.opened(chunks, patience=heartbeat))
        events = streaming.events(first, chunks, heartbeat=heartbeat, failed=partial(_note, job.record))
        closing = BackgroundTask(_close, events)
        headers = {**_headers(job, ignored), "cache-control": "no-cache"}
        return Stream(events, media_type="text/event-stream", headers=headers, background=closing)

    async def prepared(request: Request[Any, Any, Any]) -> tuple[Job, bool, list[str]]:
        """The job, whether its answer is streamed, and which fields are ignored; the body is not kept any longer."""
        record, hold = record_of(request.scope), hold_of(request.scope)
        body = await received(request)
        record.enter("parse")
        asked = decoded(body)
        record.streamed = bool(asked.stream)
        record.enter(None)
        await allowance_of(request.scope).take_pictures(len(wire.pictures_of(asked)))
        wishes = _wishes(request.headers, longest_wait)
        preparation = captioner.prepare(asked, record.caller, wishes, hold=hold, record=record)
        job = await unless_gone(request.receive, preparation)
        return job, bool(asked.stream), wire.unknown_fields(body)

    return create


async def received(request: Request[Any, Any, Any]) -> bytes:
    """The body, once all of it is here.

    Raises:
        RequestTimeout: it took too long.
        ClientLeft: the client broke off.
    """
    try:
        return b"".join([chunk async for chunk in request.stream()])  # its body() would keep it
    except InternalServerException:  # what Litestar makes of a client that breaks off
        raise ClientLeft("The client broke off.") from None


def decoded(body: bytes) -> wire.ChatRequest:
    """The request in closed types.

    Raises:
        InvalidRequest: it cannot be read; `param` names the field.
    """
    try:
        return wire.decode_request(body)
    except wire.Fault as fault:
        raise InvalidRequest.from_fault(fault) from None


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; a client that leaves meanwhile ends the work.

    Raises:
        ClientLeft: the client has left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_departure(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft("The client left before the answer was ready.")
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
        del task, watch  # an error's traceback leads here: it would keep itself, and what was sent


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _note(record: Record, error: GatewayError) -> None:
    record.error = error.code


async def _close(events: AsyncGenerator[bytes, None]) -> None:
    # Litestar does not: a client that left without reading would keep its place in the engine.
    await events.aclose()


def _wishes(headers: Headers, longest_wait: float) -> directives.Directives:
    return directives.read(
        cache_control=",".join(headers.getall("cache-control", [])),
        prefer=",".join(headers.getall("prefer", [])),
        longest_wait=longest_wait,
    )


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
