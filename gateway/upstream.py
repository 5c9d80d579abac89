"""A server that speaks chat completions, over HTTP: how its answers and its faults become ours.

Whatever goes wrong on the way to an engine or in it becomes one of our errors here and in the two kinds of engine.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from http import HTTPStatus

import msgspec
from msgspec import Struct

from gateway import wire
from gateway.errors import EngineFault, EngineTimeout, EngineUnavailable, GatewayError, InvalidRequest, Overloaded
from gateway.http1_client import Client, Response, TransferError
from gateway.logs.settings import WORDS
from gateway.traces import parent

log = logging.getLogger(__name__)

MAX_ANSWER = 16 * 2**20  # bytes
KEEP_ALIVE = 4.0  # seconds: less than the 5 of uvicorn, so that it is not the server who closes, just as we send
MAX_EVENT = 2**20  # bytes
END_PATIENCE = 0.1  # seconds
DONE = b"[DONE]"

LONGEST_MESSAGE = 500  # characters
LONGEST_LOGGED = 200  # of an engine's words
WORD = re.compile(r"[\w.\[\]-]{1,100}")
PICTURES = re.compile(r"(?:data|file):[^\s\"']*|[\w+/=-]{65,}")  # and what may be base64, but no digest
UNREADABLE = (ValueError, RecursionError)  # what msgspec raises: of what is no JSON, no UTF-8 or nested too deeply

UNPRESENTABLE = re.compile(r"\n|…|0x[0-9a-f]{4}|<[\w.]+ object|pydantic|Traceback|\w+Error:|(^|[\s'\"=(])/[\w.-]+/")
MENDABLE = {  # by the client; other statuses of an engine are the operator's to mend
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}

Sent = AbstractAsyncContextManager[Response]
"""A request under way: entering it gives a response whose status says that there is an answer."""


class _ErrorBody(Struct, frozen=True):
    """An engine's error. vLLM's code is a number, others have none."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None

    @property
    def words(self) -> dict[str, str]:
        """What it says, for a log that may repeat what may be a client's."""
        return {WORDS: self.message[:LONGEST_LOGGED]}

    @property
    def kind(self) -> str:
        """What the operator is told in any case."""
        return f"{self.type}, {self.code}"


class _Envelope(Struct, frozen=True):
    error: _ErrorBody


_decode_error = msgspec.json.Decoder(_Envelope).decode


class Heard:
    """When something of an answer has come last, by the monotonic clock."""

    at: float | None = None


async def whole(sent: Sent, name: str) -> wire.ChatCompletion:
    """A whole answer of the model called `name`.

    Raises:
        GatewayError: the engine refused, is not there, failed or took too long.
    """
    async with sent as response:
        body = await limited(response)
        try:
            return wire.decode_completion(body)
        except UNREADABLE:
            raise no_answer(name) from None


async def streamed(
    sent: Sent, name: str, limit: float, secret: str = "", *, heard: Heard | None = None
) -> AsyncGenerator[wire.Chunk, None]:
    """The answer as it is made, for `limit` seconds; `secret` is blotted out of what the engine says of an error.

    `heard` is told when something comes.

    Raises:
        GatewayError: as `whole`, and also in the middle.
    """
    async with sent as response:
        deadline = time.monotonic() + limit
        async for data in _events(response):
            now = time.monotonic()
            if heard is not None:
                heard.at = now
            if now > deadline:  # its client reads so slowly that the connection's own limit sees no wait
                raise too_slow(name, limit)
            if data == DONE:
                await _finish(response)
                return
            yield _chunk(data, name, secret)
        raise EngineUnavailable(f"The engine of '{name}' broke off in the middle of its answer. Try again.")


async def post(client: Client, target: str, body: bytes, *, seconds: float) -> Response:
    """Sends a request to chat completions at `target`, whose answer may take so many seconds."""
    return await client.post(target, body, seconds=seconds, headers=parent.headers())


async def refusal(response: Response, name: str, secret: str = "", *, is_ready: bool = False) -> GatewayError:
    """The engine's error as ours: what the client can mend is passed on without `secret`, the rest is for the log.

    Of an engine that `is_ready` for certain, a 503 says that its queue is full, as vLLM has it, unless it says as ours
    do that it cannot be had.
    """
    status, retry_after = response.status, _seconds(response.header(b"retry-after") or "")
    error = _error(await limited(response), secret)
    is_full = is_ready and status == HTTPStatus.SERVICE_UNAVAILABLE and error.code != EngineUnavailable.code
    if status == HTTPStatus.TOO_MANY_REQUESTS or is_full:
        return _full(name, retry_after)
    if status in MENDABLE:
        return _refused(error, name, status)
    log.error("%s: answered %s: %s", name, status, error.kind, extra=error.words)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return EngineUnavailable(f"The engine of '{name}' is not ready. Try again soon.", retry_after=retry_after)
    return EngineFault(f"The engine of '{name}' failed on this request; the gateway's log says more.")


def _full(name: str, retry_after: float | None = None) -> Overloaded:
    return Overloaded(f"The engine of '{name}' has too much to do. Try again soon.", retry_after=retry_after)


def _refused(error: _ErrorBody, name: str, status: int) -> InvalidRequest:
    """The client's fault in the engine's words, unless these are a library's: they tell of insides, and help nobody."""
    if not 0 < len(error.message) <= LONGEST_MESSAGE or UNPRESENTABLE.search(error.message):
        log.warning("%s: answered %s: %s", name, status, error.kind, extra=error.words)
        return InvalidRequest(
            f"The engine of '{name}' cannot do what this request asks for. Ask for less, or otherwise."
        )
    return InvalidRequest(error.message, param=error.param, code=error.code if isinstance(error.code, str) else None)


def no_answer(name: str) -> EngineFault:
    """What the engine sent cannot be read."""
    log.error("%s: its answer is no chat completion", name)
    return EngineFault(f"The engine of '{name}' gave no usable answer. Try again; its log may say why.")


def too_slow(name: str, limit: float) -> EngineTimeout:
    """The engine took longer than `limit` seconds."""
    return EngineTimeout(f"The engine of '{name}' did not finish within {limit:.0f} seconds.")


async def limited(response: Response) -> bytes:
    """The body, of at most `MAX_ANSWER` bytes."""
    blocks, size = list[bytes](), 0
    while block := await response.block():
        blocks.append(block)
        size += len(block)
        _ensure_small(size)
    return b"".join(blocks)


async def _blocks(response: Response) -> AsyncIterator[bytes]:
    """The body as it comes, of at most `MAX_ANSWER` bytes."""
    size = 0
    while block := await response.block():
        size += len(block)
        _ensure_small(size)
        yield block


def _ensure_small(size: int) -> None:
    if size > MAX_ANSWER:
        raise _too_large()


def _too_large() -> EngineFault:
    return EngineFault("The engine's answer is larger than an answer can be.")


def _chunk(data: bytes, name: str, secret: str) -> wire.Chunk:
    try:
        return wire.decode_chunk(data)
    except UNREADABLE:
        raise _broken_off(data, name, secret) from None


def _broken_off(data: bytes, name: str, secret: str) -> GatewayError:
    error = _error(data, secret)
    if not error.message:
        return no_answer(name)
    if error.code == HTTPStatus.SERVICE_UNAVAILABLE:  # vLLM's queue got full after it had said 200
        return _full(name)
    log.error("%s: error in mid-stream: %s", name, error.kind, extra=error.words)
    return EngineFault(f"The engine of '{name}' failed in the middle of its answer. Try again.")


def _error(data: bytes, secret: str) -> _ErrorBody:
    """What an engine says of an error, without `secret` and pictures; empty when it is in nobody's form."""
    try:
        error = _decode_error(data).error
    except UNREADABLE:
        return _ErrorBody()
    message = error.message.replace(secret, "***") if secret else error.message
    return _ErrorBody(
        message=PICTURES.sub("…", message),
        type=_word(error.type, secret),
        param=_word(error.param, secret),
        code=error.code if isinstance(error.code, int) else _word(error.code, secret),
    )


def _word(given: str | None, secret: str) -> str | None:
    """The name that an engine gives something; None when it is none."""
    return given if given and WORD.fullmatch(given) and not (secret and secret in given) else None


async def _finish(response: Response) -> None:
    """Reads the end of a body that has said all it has to say, so that its connection can serve another request."""
    with suppress(TimeoutError, TransferError):
        async with asyncio.timeout(END_PATIENCE):
            await response.block()


async def _events(response: Response) -> AsyncIterator[bytes]:
    """The data of each server-sent event."""
    rest = b""
    async for block in _blocks(response):
        *events, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(rest) > MAX_EVENT:
            raise _too_large()
        for event in events:
            for data in _data(event):
                yield data
    if _data(rest)[-1:] == [DONE]:  # some end without a blank line; otherwise the rest is a piece of an event
        for data in _data(rest):
            yield data


def _data(event: bytes) -> list[bytes]:
    return [line.removeprefix(b"data:").strip() for line in event.split(b"\n") if line.startswith(b"data:")]


def _seconds(text: str) -> float | None:
    """The seconds of a Retry-After, where it has some."""
    return float(text) if re.fullmatch(r"\d{1,9}", text) else None
