"""The way to an engine of this machine: one request on its Unix socket, and what each fault on it means.

Who keeps the engine's process, starts it and ends it, is the `Keeper`: this process itself, or the owner of several
workers.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

import msgspec
from msgspec import Struct

from gateway import upstream, wire
from gateway.engine import Ask
from gateway.errors import EngineFault, EngineUnavailable
from gateway.http1_client import Client, NotConnected, Response, TransferError
from gateway.life import Health

PATH = "/v1/chat/completions"
PROBE_TIMEOUT = 2.0  # seconds


class Visit:
    """A request's use of an engine; `heard_at` is when something of an answer has come last, by the monotonic clock."""

    heard_at: float | None = None


class Keeper(Protocol):
    """Whoever has an engine's process in hand."""

    def visited(self, wait: float) -> AbstractAsyncContextManager[Visit]:
        """The engine, ready, and not to be unloaded while the context lasts.

        Raises:
            EngineUnavailable: it could not start, or it was not its turn or not ready within `wait` seconds.
        """
        ...

    async def ensure_ready(self, wait: float) -> None:
        """Returns when the engine is ready.

        Raises:
            EngineUnavailable: it could not start, or was not ready within `wait` seconds.
        """
        ...

    async def death_noticed(self) -> float:
        """Returns when its death is known, with how many seconds it is likely to take until it is back."""
        ...

    def cannot_answer(self) -> None:
        """The engine has said of itself that it cannot answer any more: it is to be replaced."""
        ...


class _HealthBody(Struct, frozen=True):
    phase: str | None = None
    progress: float | None = None
    device: str | None = None


_decode_health = msgspec.json.Decoder(_HealthBody).decode


class Line:
    """Requests to one engine. Use it as an async context manager.

    Args:
        name: the model's name.
        socket: the path of the engine's Unix socket.
        keeper: has its process in hand.
        cold_start_wait: seconds that a request waits for a start, unless it says otherwise.
        request_timeout: seconds that a request may take once the engine is ready.
    """

    def __init__(
        self, name: str, socket: str, keeper: Keeper, *, cold_start_wait: float, request_timeout: float
    ) -> None:
        self._name = name
        # A connection for each request costs a tenth of a millisecond. One that is kept might be closed under the next
        # one: uvicorn does so right after an answer that tells of a crash.
        self._client = Client.at(socket)
        self._keeper = keeper
        self._cold_start_wait = cold_start_wait
        self._request_timeout = request_timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    async def complete(self, ask: Ask, wait: float | None) -> wire.ChatCompletion:
        """A whole answer.

        Raises:
            GatewayError: the engine refused, is not there, failed or took too long.
        """
        return await upstream.whole(self._sent(ask, wait, upstream.Heard()), self._name)

    def stream(self, ask: Ask, wait: float | None) -> AsyncGenerator[wire.Chunk, None]:
        """The answer as it is made.

        Raises:
            GatewayError: as `complete`, and also in the middle.
        """
        heard = upstream.Heard()
        return upstream.streamed(self._sent(ask, wait, heard), self._name, self._request_timeout, heard=heard)

    async def probe(self) -> Health | None:
        """What the engine says of its health; None when it says nothing that can be understood."""
        try:
            async with await self._client.get("/health", seconds=PROBE_TIMEOUT) as response:
                said = await upstream.limited(response)
                body = _decode_health(said) if said else _HealthBody()  # vLLM says it by the status alone
                return Health(response.status == HTTPStatus.OK, body.phase, body.progress, body.device)
        except (TransferError, TimeoutError, EngineFault, *upstream.UNREADABLE):
            return None

    async def command(self, path: str) -> None:
        """Has the engine do something that is no request.

        Raises:
            OSError: it did not.
        """
        try:
            async with await self._client.post(path, seconds=self._request_timeout) as response:
                is_done = response.status < HTTPStatus.BAD_REQUEST
        except TransferError:
            is_done = False
        if not is_done:
            raise OSError(f"the engine did not do {path}")

    @asynccontextmanager
    async def _sent(self, ask: Ask, wait: float | None, heard: upstream.Heard) -> AsyncIterator[Response]:
        """The response to a request, once its status says that there is an answer."""
        patience = self._cold_start_wait if wait is None else wait
        async with self._keeper.visited(patience) as visit:
            response = None
            try:
                async with await self._post(wire.encode_request(await ask()), patience) as response:
                    if response.status != HTTPStatus.OK:
                        raise await upstream.refusal(response, self._name, is_ready=True)
                    yield response
            except TimeoutError:
                raise upstream.too_slow(self._name, self._request_timeout) from None
            except EngineFault as fault:
                raise await self._gone() if await self._is_dead() else fault from None
            except TransferError:
                # A request that killed its engine would kill the next one too, so it is not tried again here.
                raise await self._gone() from None
            finally:
                if heard.at is None and response is not None and response.received:
                    heard.at = time.monotonic()
                visit.heard_at = heard.at

    async def _is_dead(self) -> bool:
        """Whether what failed was no request but the engine, whose server may outlive it and answer: vLLM's does."""
        health = await self.probe()
        if health is not None and not health.ready:
            self._keeper.cannot_answer()
        return health is None or not health.ready

    async def _gone(self) -> EngineUnavailable:
        expected = await self._keeper.death_noticed()
        return EngineUnavailable(
            f"The engine of '{self._name}' went away while it worked on this request and is being restarted. "
            "Try again.",
            retry_after=expected,
        )

    async def _post(self, body: bytes, patience: float) -> Response:
        try:
            return await upstream.post(self._client, PATH, body, seconds=self._request_timeout)
        except NotConnected:
            # Nothing was sent, so nothing can be done twice: the process died just now.
            await self._keeper.death_noticed()
            await self._keeper.ensure_ready(patience)
            return await upstream.post(self._client, PATH, body, seconds=self._request_timeout)
