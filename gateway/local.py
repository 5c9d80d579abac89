"""An engine on this machine: a supervised process that speaks chat completions on a Unix socket."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from msgspec import Struct

from gateway import upstream, wire
from gateway.engine import Ask, Status
from gateway.errors import EngineFault, EngineUnavailable
from gateway.fleet import Fleet
from gateway.life import Health, Nap, State
from gateway.process import Process, nothing_missing

PATH = "/v1/chat/completions"
PROBE_TIMEOUT = 2.0  # seconds
MOST_UNANSWERED = 3  # requests
STALE_AFTER_SLEEP = ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")


class _HealthBody(Struct, frozen=True):
    phase: str | None = None
    progress: float | None = None
    device: str | None = None


_decode_health = msgspec.json.Decoder(_HealthBody).decode


class LocalEngine:
    """An engine of this machine. Use it as an async context manager, inside its fleet.

    Args:
        name: the model's name.
        command: what starts the process.
        socket: the path of its Unix socket.
        fleet: shares out the places for loaded engines.
        environ: the process's environment.
        start_timeout: seconds until a start that is not ready counts as failed.
        cold_start_wait: seconds that a request waits for a start, unless it says otherwise.
        request_timeout: seconds that a request may take once the engine is ready.
        sleeps: whether it can sleep instead of being stopped.
        obstacle: says why it cannot be started, or None.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        socket: str,
        *,
        fleet: Fleet,
        environ: Mapping[str, str],
        start_timeout: float,
        cold_start_wait: float,
        request_timeout: float,
        sleeps: bool = False,
        obstacle: Callable[[], str | None] = nothing_missing,
    ) -> None:
        self.name = name
        self._socket = socket
        self._start_timeout = start_timeout
        self._cold_start_wait = cold_start_wait
        self._request_timeout = request_timeout
        self._session: aiohttp.ClientSession | None = None
        self._loading: asyncio.Task[None] | None = None
        self._unanswered = 0
        self._heard_at = 0.0
        self.process = Process(
            name,
            command,
            self._probe,
            start_timeout=start_timeout,
            environ=environ,
            nap=Nap(self._sleep, self._wake) if sleeps else None,
            obstacle=obstacle,
        )
        self._seat = fleet.seat(self.process)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            "http://engine",
            # A connection each costs a tenth of a millisecond. One kept might be closed under the next request: uvicorn
            # does so right after an answer that tells of a crash.
            connector=aiohttp.UnixConnector(self._socket, limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._request_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        await self.process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.process.__aexit__(kind, error, trace)
        await self._http.close()

    @property
    def status(self) -> Status:
        """What the process is doing."""
        state, health = self.process.state, self.process.health
        return Status(
            state,
            health.phase,
            health.progress,
            health.device,
            self.process.reason,
            can_serve=self.process.load_seconds is not None and state is not State.FAILED,
        )

    def want(self) -> None:
        """Loads it in the background, as soon as there is a place, and after a start that failed again."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._seat.preload(self._start_timeout))

    async def complete(self, ask: Ask, *, wait: float | None = None) -> wire.ChatCompletion:
        """A whole answer.

        Raises:
            GatewayError: the engine refused, is not there, failed or took too long.
        """
        return await upstream.whole(self._sent(ask, wait), self.name)

    def stream(self, ask: Ask, *, wait: float | None = None) -> AsyncGenerator[wire.Chunk, None]:
        """The answer as it is made.

        Raises:
            GatewayError: as `complete`, and also in the middle.
        """
        return upstream.streamed(self._sent(ask, wait), self.name, self._request_timeout)

    @property
    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the engine is used outside its context")
        return self._session

    @asynccontextmanager
    async def _sent(self, ask: Ask, wait: float | None) -> AsyncIterator[upstream.Response]:
        """The response to a request, once its status says that there is an answer."""
        patience = self._cold_start_wait if wait is None else wait
        async with self._seat.taken(patience):
            since, response = time.monotonic(), None
            try:
                async with await self._post(wire.encode(await ask()), patience) as response:
                    if response.status != HTTPStatus.OK:
                        raise await upstream.refusal(response, self.name)
                    yield response
            except TimeoutError:
                raise upstream.too_slow(self.name, self._request_timeout) from None
            except EngineFault as fault:
                raise await self._gone() if await self._is_dead() else fault from None
            except aiohttp.ClientError:
                # A request that killed its engine would kill the next one too, so it is not tried again here.
                raise await self._gone() from None
            finally:
                self._note(response, since)

    def _note(self, response: upstream.Response | None, since: float) -> None:
        """Counts requests that met their limit unanswered. An engine that answers none, whatever its health, hangs."""
        now = time.monotonic()
        if response is not None and response.content.total_bytes:
            self._heard_at, self._unanswered = now, 0
        elif now >= since + self._request_timeout and self._heard_at < since:
            self._unanswered += 1
        if self._unanswered == MOST_UNANSWERED:
            self._unanswered = 0
            self.process.give_up(f"it left {MOST_UNANSWERED} requests in a row without an answer")

    async def _is_dead(self) -> bool:
        """Whether what failed was no request but the engine, whose server may outlive it and answer: vLLM's does."""
        health = await self._probe()
        if health is not None and not health.ready:
            self.process.give_up("it says that it cannot answer any more")
        return health is None or not health.ready

    async def _gone(self) -> EngineUnavailable:
        await self.process.death_noticed()
        return EngineUnavailable(
            f"The engine of '{self.name}' went away while it worked on this request and is being restarted. Try again.",
            retry_after=self.process.expected_seconds(),
        )

    async def _post(self, body: bytes, patience: float) -> upstream.Response:
        try:
            return await upstream.post(self._http, PATH, body)
        except aiohttp.ClientConnectorError:
            # Nothing was sent, so nothing can be done twice: the process died just now.
            await self.process.death_noticed()
            await self.process.ensure_ready(patience)
            return await upstream.post(self._http, PATH, body)

    async def _probe(self) -> Health | None:
        try:
            async with self._http.get("/health", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT)) as response:
                said = await upstream.limited(response)
                body = _decode_health(said) if said else _HealthBody()  # vLLM says it by the status alone
                return Health(response.status == HTTPStatus.OK, body.phase, body.progress, body.device)
        except (aiohttp.ClientError, TimeoutError, OSError, EngineFault, *upstream.UNREADABLE):
            return None

    async def _sleep(self) -> None:
        await self._command("/sleep?level=1")

    async def _wake(self) -> None:
        await self._command("/wake_up")
        # What was kept of earlier requests lay in memory that is gone; vLLM does not notice by itself.
        for path in STALE_AFTER_SLEEP:
            await self._command(path)

    async def _command(self, path: str) -> None:
        try:
            async with self._http.post(path, raise_for_status=True):
                pass
        except aiohttp.ClientError as error:
            raise OSError(f"the engine did not do {path}") from error
