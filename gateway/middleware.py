"""What wraps every request, in plain ASGI: its record, keys, limits, admission.

They stand outside the framework, so that a 404 or a refused body gets them too. `app.py` lists their order.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send, WebSocketReceiveMessage

from gateway.auth import ANONYMOUS, Caller, Keyring
from gateway.errors import (
    AdminOnly,
    EngineUnavailable,
    ForeignOrigin,
    GatewayError,
    InvalidKey,
    UnsupportedMediaType,
    render,
)
from gateway.limits import Gate
from gateway.quota import Allowance, Books
from gateway.record import Record
from gateway.traces.opening import NO_TRACES, Traces

log = logging.getLogger("gateway.access")

Received = HTTPReceiveMessage | WebSocketReceiveMessage

READABLE_TYPES = re.compile(
    r"(application/(json|[\w.+-]+\+json|octet-stream|x-www-form-urlencoded)|text/plain)\s*(;|$)", re.IGNORECASE
)

LABELS = frozenset({b"origin", b"content-encoding", b"content-type"})
LOCAL_ORIGIN = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class Recording:
    """Opens a record for every request, stamps its answer with id and times, and has it told of at the end."""

    def __init__(
        self, app: ASGIApp, over: Callable[[Record], None], traces: Traces = NO_TRACES, *, keeps_prompts: bool = False
    ) -> None:
        self._app = app
        self._over = over
        self._traces = traces
        self._keeps_prompts = keeps_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stamps the answer's headers."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        record = Record(method=scope["method"], path=scope["path"], keeps_prompt=self._keeps_prompts)
        scope.setdefault("state", {})["record"] = record
        self._traces.begin(record, scope["headers"])
        begun = False

        async def stamped(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                record.status = message["status"]
                message["headers"] = [*message.get("headers", []), *_stamps(record)]
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except asyncio.CancelledError:
            if not begun:
                await _send(EngineUnavailable("The server is shutting down. Try again."), scope, stamped)
            raise
        finally:
            record.close()
            self._over(record)


def _stamps(record: Record) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-request-id", record.id.encode()),
        (b"openai-processing-ms", str(round(record.worked() * 1000)).encode()),
        (b"server-timing", record.timing().encode()),
    ]


def record_of(scope: Scope) -> Record:
    """What is known of a request."""
    record: Record = scope["state"]["record"]
    return record


class Authentication:
    """Lets nobody pass who sends no key that is known, wherever they want to go, `open_paths` aside.

    The path is the one that the routes go by. No body is read before.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, *, open_paths: Collection[str]) -> None:
        self._app = app
        self._keyring = keyring
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Notes whose key it is in the record."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        try:
            record_of(scope).caller = self._caller(scope)
        except InvalidKey as error:
            log.info("%s: %s", record_of(scope).id, error.message)
            await _send(error, scope, send)
            return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        if scope["path"] in self._open_paths:
            return ANONYMOUS
        return self._keyring.caller([value for name, value in scope["headers"] if name == b"authorization"])


def caller_of(scope: Scope) -> Caller:
    """Whose key a request was made with; nobody's before that is known."""
    return record_of(scope).caller


def admin_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """A guard for the routes of administrators. Where no keys are configured, nobody is one.

    Raises:
        AdminOnly: the key is no administrator's.
    """
    if not caller_of(connection.scope).admin:
        raise AdminOnly("This needs an administrator's key: one whose section in altgate.toml says admin = true.")


class Limits:
    """Tells a key in headers how its own limits stand, and gives back the place that its request took: `allowance_of`.

    What is charged, the route decides.
    """

    def __init__(self, app: ASGIApp, books: Books) -> None:
        self._app = app
        self._books = books

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stamps the answer's headers; when it has ended, so has the request's place."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        allowance = scope["state"]["allowance"] = Allowance(caller_of(scope), self._books)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] != HTTPStatus.TOO_MANY_REQUESTS:  # who is turned away is so without delay
                    await allowance.settle()
                standing = [(name.encode(), value.encode()) for name, value in allowance.headers().items()]
                message["headers"] = [*message.get("headers", []), *standing]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                await allowance.leave()
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            await allowance.leave()


def allowance_of(scope: Scope) -> Allowance:
    """What is left of the limits of the request's key."""
    allowance: Allowance = scope["state"]["allowance"]
    return allowance


class Admission:
    """Refuses a POST before its body is read: too many under way, compressed, no JSON, or made by a foreign page.

    What arrives of a body is counted while the request is under way, and so is what is fetched for it: see `hold_of`.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Holds a place at the gate for as long as the request takes."""
        if scope["type"] != ScopeType.HTTP or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in LABELS}
        try:
            if caller_of(scope) is ANONYMOUS:
                _check_origin(headers.get(b"origin"))
            _check_labels(headers)
            with self._gate.admitted() as hold:
                scope["state"]["hold"] = hold
                await self._app(scope, _counted(receive, hold), send)
        except GatewayError as error:
            await _send(error, scope, send)


def hold_of(scope: Scope) -> Callable[[int], None]:
    """Counts more bytes that the request has in memory, given back when it is over; refuses them with `Overloaded`."""
    hold: Callable[[int], None] = scope["state"]["hold"]
    return hold


def _counted(receive: Receive, hold: Callable[[int], None]) -> Receive:
    async def counted() -> Received:
        message = await receive()
        if message["type"] == "http.request":
            hold(len(message["body"]))
        return message

    return counted


def _check_origin(origin: str | None) -> None:
    """No page of the web may use a gateway that asks for no key: browsers say where a page is from, others say nothing.

    This also stops a page that has made its own name resolve to this machine.
    """
    if origin is not None and not LOCAL_ORIGIN.fullmatch(origin):
        raise ForeignOrigin("A web page from elsewhere may not use this gateway. Call it from your own server instead.")


def _check_labels(headers: Mapping[bytes, str]) -> None:
    encoding = headers.get(b"content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedMediaType(
            f"The body is encoded as '{encoding[:40]}', which is not read. Send it as it is, without Content-Encoding."
        )
    kind = headers.get(b"content-type", "")
    if kind and not READABLE_TYPES.match(kind.strip()):
        raise UnsupportedMediaType(
            f"The body's type is '{kind[:80]}', which is not read. Send JSON with 'Content-Type: application/json'."
        )


async def _send(error: GatewayError, scope: Scope, send: Send) -> None:
    record_of(scope).error = error.code
    status, headers, body = render(error)
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": False})
