"""A server that speaks chat completions, over HTTP: how its answers and its faults become ours.

Whatever goes wrong on the way to an engine or in it becomes one of our errors here and in the two kinds of engine.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from http import HTTPStatus
from io import BytesIO

import aiohttp
import msgspec
from msgspec import Struct

from gateway import wire
from gateway.errors import EngineFault, EngineTimeout, EngineUnavailable, GatewayError, InvalidRequest, Overloaded

log = logging.getLogger(__name__)

MAX_ANSWER = 16 * 2**20  # bytes
KEEP_ALIVE = 4.0  # seconds: less than the 5 of uvicorn, so that it is not the server who closes, just as we send
MAX_EVENT = 2**20  # bytes
END_PATIENCE = 0.1  # seconds

LONGEST_MESSAGE = 500  # characters
UNPRESENTABLE = re.compile(r"\n|0x[0-9a-f]{4}|<[\w.]+ object|pydantic|Traceback|\w+Error:|(^|[\s'\"=(])/[\w.-]+/")
MENDABLE = {  # by the client; other statuses of an engine are the operator's to mend
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}

Response = aiohttp.ClientResponse
Sent = AbstractAsyncContextManager[Response]
"""A request under way: entering it gives a response whose status says that there is an answer."""


class _ErrorBody(Struct, frozen=True):
    """An engine's error. vLLM's code is a number, others have none."""

    message: str = ""
    param: str | None = None
    code: str | int | None = None


class _Envelope(Struct, frozen=True):
    error: _ErrorBody


_decode_error = msgspec.json.Decoder(_Envelope).decode


async def whole(sent: Sent, name: str) -> wire.ChatCompletion:
    """A whole answer of the model called `name`.

    Raises:
        GatewayError: the engine refused, is not there, failed or took too long.
    """
    async with sent as response:
        body = await limited(response)
        try:
            return wire.decode_completion(body)
        except msgspec.DecodeError:
            raise no_answer(name) from None


async def streamed(sent: Sent, name: str, secret: str = "") -> AsyncGenerator[wire.Chunk, None]:
    """The answer as it is made; `secret` is blotted out of what the engine says of an error.

    Raises:
        GatewayError: as `whole`, and also in the middle.
    """
    async with sent as response:
        async for data in _events(response):
            if data == b"[DONE]":
                await _finish(response)
                return
            yield _chunk(data, name, secret)
        raise EngineUnavailable(f"The engine of '{name}' broke off in the middle of its answer. Try again.")


async def post(
    session: aiohttp.ClientSession, url: str, body: bytes, limits: aiohttp.ClientTimeout | None = None
) -> Response:
    """Sends a request to chat completions at `url`, within the session's limits or its own; follows no redirect."""
    headers = {"content-type": "application/json"}
    return await session.post(
        url, data=BytesIO(body), headers=headers, allow_redirects=False, timeout=limits or session.timeout
    )


async def refusal(response: Response, name: str, secret: str = "") -> GatewayError:
    """The engine's error as ours: what the client can mend is passed on without `secret`, the rest is for the log."""
    status, retry_after = response.status, _seconds(response.headers)
    error = _error(await limited(response), secret)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Overloaded(error.message or "The engine has too much to do. Try again soon.", retry_after=retry_after)
    if status in MENDABLE:
        return _refused(error, name, status)
    log.error("%s: answered %s: %s", name, status, error.message)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return EngineUnavailable(f"The engine of '{name}' is not ready. Try again soon.", retry_after=retry_after)
    return EngineFault(f"The engine of '{name}' failed on this request; the gateway's log says more.")


def _refused(error: _ErrorBody, name: str, status: int) -> InvalidRequest:
    """The client's fault in the engine's words, unless these are a library's: they tell of insides, and help nobody."""
    if not error.message or UNPRESENTABLE.search(error.message) or len(error.message) > LONGEST_MESSAGE:
        log.warning("%s: answered %s: %s", name, status, error.message[:LONGEST_MESSAGE])
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
    blocks: list[bytes] = []
    size = 0
    async for block in response.content.iter_any():
        size += len(block)
        if size > MAX_ANSWER:
            raise EngineFault("The engine's answer is larger than an answer can be.")
        blocks.append(block)
    return b"".join(blocks)


def _chunk(data: bytes, name: str, secret: str) -> wire.Chunk:
    try:
        return wire.decode_chunk(data)
    except msgspec.DecodeError:
        raise _broken_off(data, name, secret) from None


def _broken_off(data: bytes, name: str, secret: str) -> EngineFault:
    error = _error(data, secret)
    if not error.message:
        return no_answer(name)
    log.error("%s: error in mid-stream: %s", name, error.message)
    return EngineFault(f"The engine of '{name}' failed in the middle of its answer. Try again.")


def _error(data: bytes, secret: str) -> _ErrorBody:
    """What an engine says of an error, without `secret`; empty when it is in nobody's form."""
    try:
        error = _decode_error(data).error
    except msgspec.DecodeError:
        return _ErrorBody()
    return msgspec.structs.replace(error, message=error.message.replace(secret, "***")) if secret else error


async def _finish(response: Response) -> None:
    """Reads the end of a body that has said all it has to say, so that its connection can serve another request."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END_PATIENCE):
            await response.content.readany()


async def _events(response: Response) -> AsyncIterator[bytes]:
    """The data of each server-sent event."""
    rest = b""
    async for block in response.content.iter_any():
        *events, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(rest) > MAX_EVENT:
            raise EngineFault("The engine's answer is larger than an answer can be.")
        for line in (line for event in events for line in event.split(b"\n")):
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _seconds(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After, where it has some that make sense."""
    text = headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"\d{1,5}", text) else None
