"""POST /v1/chat/completions, whole and streamed.

The handler speaks ASGI itself: a framework's request and response took longer than all that is done here.
"""

from collections.abc import Sequence
from functools import partial

from litestar import asgi
from litestar.exceptions import MethodNotAllowedException
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway import directives, streaming, wire
from gateway.captioning import Captioner, Job
from gateway.errors import GatewayError, Overloaded
from gateway.middleware import allowance_of, record_of
from gateway.recall import Recall
from gateway.record import Record
from gateway.routes.asking import Asking, received
from gateway.routes.presence import ClientLeft, Presence
from gateway.routes.reply import Reply

PATHS = ["/v1/chat/completions", "/chat/completions"]


def route(
    captioner: Captioner, *, heartbeat: float, longest_wait: float, max_body: int, max_recalled: int = 0
) -> ASGIRouteHandler:
    """The handler. Times are in seconds; `longest_wait` bounds what a client may ask for, `max_body` is in bytes.

    `max_recalled` is how many bytes may be kept of requests that were answered from the cache, to know them again.
    """
    asking = Asking(captioner, Recall(captioner.cache, max_bytes=max_recalled), longest_wait=longest_wait)

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
        blocks = await received(scope, receive, max_body)
        reply = Reply(send)
        try:
            async with Presence(scope):
                job, ignored = await asking.prepared(scope, blocks)
                reply.streamed, reply.headers = job.record.streamed, partial(_headers, job, ignored)
                rest = await (streamed(job, reply) if reply.streamed else whole(job))
        except ClientLeft:
            if reply.begun:
                return  # nobody is there to be told
            raise
        await reply.end(rest)

    async def whole(job: Job) -> bytes:
        return wire.encode(await captioner.answer(job))

    async def streamed(job: Job, reply: Reply) -> bytes:
        """Sends the answer as it is made, but for its end, which comes back."""
        await streaming.tell(captioner.stream(job), reply.piece, heartbeat=heartbeat, failed=partial(_note, job.record))
        return wire.DONE

    return create


def _ensure_post(scope: Scope) -> None:
    if scope.get("method") != "POST":
        raise MethodNotAllowedException(headers={"Allow": "POST"})


def _note(record: Record, error: GatewayError) -> None:
    record.error = error.code


def _headers(job: Job, ignored: Sequence[str]) -> dict[str, str]:
    """What is known of the answer when it begins."""
    headers: dict[str, str] = {"x-altgate-cache": job.record.cache or "bypass", **directives.applied(job.wait)}
    if job.age is not None:
        headers["age"] = str(job.age)
    if job.record.notes:
        headers["x-altgate-image"] = ", ".join(job.record.notes)
    if ignored:
        headers["x-altgate-ignored"] = ", ".join(ignored)
    return headers
