"""The Engine seam: chat completions in, chat completions out; and its one implementation, over HTTP.

Whatever goes wrong on the way to an engine or in it becomes one of our errors here and nowhere else.
"""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from io import BytesIO
from types import TracebackType
from typing import Protocol, Self

import aiohttp
import msgspec
from msgspec import Struct

from gateway import wire
from gateway.errors import EngineFault, EngineTimeout, EngineUnavailable, GatewayError, InvalidRequest, Overloaded
from gateway.process import Health, Process, State

log = logging.getLogger(__name__)

MAX_ANSWER = 16 * 2**20  # bytes
PROBE_TIMEOUT = 2.0  # seconds


class Status(Struct, frozen=True):
    """What an engine is doing, for `/v1/models` and the banner. `progress` is a fraction of 1."""

    state: State
    phase: str | None = None
    progress: float | None = None
    device: str | None = None
    reason: str | None = None


class Engine(Protocol):
    """What answers for one model."""

    @property
    def status(self) -> Status:
        """What it is doing; advisory, it may have changed when it is read."""
        ...

    def want(self) -> None:
        """Starts it in the background."""
        ...

    async def complete(self, request: wire.ChatRequest) -> wire.ChatCompletion:
        """A whole answer."""
        ...

    def stream(self, request: wire.ChatRequest) -> AsyncGenerator[wire.Chunk, None]:
        """The answer as it is made. Closing the generator ends the work."""
        ...


class _HealthBody(Struct, frozen=True):
    phase: str | None = None
    progress: float | None = None
    device: str | None = None


_decode_health = msgspec.json.Decoder(_HealthBody).decode


class LocalEngine:
    """A supervised process that speaks chat completions on a Unix socket. Use it as an async context manager.

    Args:
        name: the model's name.
        command: what starts the process.
        socket: the path of its Unix socket.
        environ: the process's environment.
        start_timeout: seconds until a start that is not ready counts as failed.
        cold_start_wait: seconds that a request waits for a start.
        request_timeout: seconds that a request may take once the engine is ready.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        socket: str,
        *,
        environ: Mapping[str, str],
        start_timeout: float,
        cold_start_wait: float,
        request_timeout: float,
    ) -> None:
        self.name = name
        self._socket = socket
        self._cold_start_wait = cold_start_wait
        self._request_timeout = request_timeout
        self._session: aiohttp.ClientSession | None = None
        self.process = Process(name, command, self._probe, start_timeout=start_timeout, environ=environ)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            "http://engine",
            connector=aiohttp.UnixConnector(self._socket, limit=0),
            timeout=aiohttp.ClientTimeout(total=self._request_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        await self.process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.process.__aexit__(kind, error, trace)
        await self._http.close()

    @property
    def status(self) -> Status:
        """What the process is doing."""
        health = self.process.health
        return Status(self.process.state, health.phase, health.progress, health.device, self.process.reason)

    def want(self) -> None:
        """Starts the process in the background."""
        self.process.want()

    async def complete(self, request: wire.ChatRequest) -> wire.ChatCompletion:
        """A whole answer.

        Raises:
            GatewayError: the engine refused, is not there, failed or took too long.
        """
        async with self._sent(request) as response:
            body = await _limited(response)
        try:
            return wire.decode_completion(body)
        except msgspec.DecodeError:
            raise self._no_answer() from None

    async def stream(self, request: wire.ChatRequest) -> AsyncGenerator[wire.Chunk, None]:
        """The answer as it is made.

        Raises:
            GatewayError: as `complete`, and also in the middle.
        """
        async with self._sent(request) as response:
            async for data in _events(response):
                if data == b"[DONE]":
                    return
                yield self._chunk(data)
        raise EngineUnavailable(f"The engine of '{self.name}' broke off in the middle of its answer. Try again.")

    def _chunk(self, data: bytes) -> wire.Chunk:
        try:
            return wire.decode_chunk(data)
        except msgspec.DecodeError:
            raise self._broken_off(data) from None

    def _broken_off(self, data: bytes) -> EngineFault:
        try:
            error = wire.decode_error(data).error
        except msgspec.DecodeError:
            return self._no_answer()
        log.error("%s: error in mid-stream: %s", self.name, error.message)
        return EngineFault(f"The engine of '{self.name}' failed in the middle of its answer. Try again.")

    def _no_answer(self) -> EngineFault:
        log.error("%s: its answer is no chat completion", self.name)
        return EngineFault(f"The engine of '{self.name}' gave no usable answer. Try again; its log may say why.")

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the engine is used outside its context")
        return self._session

    @asynccontextmanager
    async def _sent(self, request: wire.ChatRequest) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request, once its status says that there is an answer."""
        await self.process.ensure_ready(self._cold_start_wait)
        try:
            async with await self._post(wire.encode(request)) as response:
                if response.status != HTTPStatus.OK:
                    raise self._refusal(response.status, response.headers, await _limited(response))
                yield response
        except TimeoutError:
            raise EngineTimeout(
                f"The engine of '{self.name}' did not finish within {self._request_timeout:.0f} seconds."
            ) from None
        except aiohttp.ClientError:
            # A request that killed its engine would kill the next one too, so it is not tried again here.
            await self.process.death_noticed()
            raise EngineUnavailable(
                f"The engine of '{self.name}' went away while it worked on this request and is being restarted. "
                "Try again.",
            ) from None

    async def _post(self, body: bytes) -> aiohttp.ClientResponse:
        headers = {"content-type": "application/json"}
        try:
            return await self._http.post("/v1/chat/completions", data=BytesIO(body), headers=headers)
        except aiohttp.ClientConnectorError:
            # Nothing was sent, so nothing can be done twice: the process died just now.
            await self.process.death_noticed()
            await self.process.ensure_ready(self._cold_start_wait)
            return await self._http.post("/v1/chat/completions", data=BytesIO(body), headers=headers)

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """The engine's error as ours: what the client can mend is passed on, the rest is for the log."""
        try:
            error = wire.decode_error(body).error
        except msgspec.DecodeError:
            return self._no_answer()
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return Overloaded(error.message, retry_after=_seconds(headers.get("retry-after")))
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return InvalidRequest(error.message, param=error.param, code=error.code)
        log.error("%s: answered %s: %s", self.name, status, error.message)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return EngineUnavailable(f"The engine of '{self.name}' is not ready. Try again soon.")
        return EngineFault(f"The engine of '{self.name}' failed on this request; the gateway's log says more.")

    async def _probe(self) -> Health | None:
        try:
            async with self._http.get("/health", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT)) as response:
                body = _decode_health(await _limited(response))
                ready = response.status == HTTPStatus.OK
                return Health(ready, body.phase, body.progress, body.device)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError, EngineFault):
            return None


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """The body, of at most `MAX_ANSWER` bytes."""
    blocks: list[bytes] = []
    size = 0
    async for block in response.content.iter_any():
        size += len(block)
        if size > MAX_ANSWER:
            raise EngineFault("The engine's answer is larger than an answer can be.")
        blocks.append(block)
    return b"".join(blocks)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each server-sent event."""
    rest = b""
    async for block in response.content.iter_any():
        *events, rest = (rest + block).split(b"\n\n")
        if len(rest) > MAX_ANSWER:
            raise EngineFault("The engine's answer is larger than an answer can be.")
        for event in events:
            if event.startswith(b"data:"):
                yield event.removeprefix(b"data:").strip()


def _seconds(text: str | None) -> float | None:
    """The seconds of a Retry-After, where it has some that make sense."""
    return float(text) if text is not None and re.fullmatch(r"\d{1,5}", text) else None
