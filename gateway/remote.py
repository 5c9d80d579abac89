"""An engine elsewhere: any server, or several alike, that speaks chat completions over HTTP.

Each server of a model is a replica. A request goes to the least busy one that can be used; one that does not answer its
probes is set aside until it does, one that fails too often until its breaker lets it try again. A request of which no
byte has come back, because the connection failed or the server said 503, is tried once more.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct
from yarl import URL

from gateway import __version__, inventory, upstream, wire
from gateway.breaker import Breaker, RetryBudget
from gateway.catalogue import Model
from gateway.engine import Ask, Status
from gateway.errors import EngineFault, EngineUnavailable, GatewayError
from gateway.http1_client import Client, Garbled, Response, TransferError
from gateway.life import State

log = logging.getLogger(__name__)

PROBE_EVERY = 5.0  # seconds
PROBE_TIMEOUT = 10.0  # generous: a server that works hard answers late, and setting it aside would not help
CLIENT_ERRORS = range(400, 500)


class _ListedModel(Struct, frozen=True):
    owned_by: str | None = None


class _Listing(Struct, frozen=True):
    """What `/models` answers, as far as it is of use here."""

    data: list[_ListedModel] | None = None


_decode_listing = msgspec.json.Decoder(_Listing).decode


class Replica:
    """One server of a model: how busy it is and how well. `trouble` says why it is set aside, or is None.

    It is asked with these headers.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url.rstrip("/")
        place = URL(self.url)
        self.path = place.raw_path.rstrip("/")
        self.client = Client.of(place, headers=headers, keep_alive=upstream.KEEP_ALIVE)
        self.breaker = Breaker()
        self.in_flight = 0
        self.probed = False
        self.trouble: str | None = None
        self.is_vllm = False
        self.next_probe = 0.0
        self.doubted = asyncio.Event()  # asks for a probe now

    def usable(self, now: float) -> bool:
        """Whether a request may be sent. Before the first probe nothing speaks against it."""
        return self.trouble is None and self.breaker.allows(now)

    def usable_at(self) -> float:
        """The earliest time at which that may change."""
        return max(self.breaker.paused_until, self.next_probe if self.trouble else 0.0)


class _Call(Struct, frozen=True):
    """A request that a replica has begun to answer, and since which era of its breaker."""

    replica: Replica
    era: int
    response: Response


class RemoteEngine:
    """The servers of one model. Use it as an async context manager.

    Args:
        model: what they are and what they call the model.
        environ: holds the key for them, where the model names its variable.
        request_timeout: seconds that a request may take, second try included.
    """

    def __init__(self, model: Model, *, environ: Mapping[str, str], request_timeout: float) -> None:
        self.name = model.name
        self._source = model.source
        self._request_timeout = request_timeout
        self._obstacle = inventory.obstacle(model, environ)
        self._key = environ.get(model.api_key_env or "", "").strip() if self._obstacle is None else ""
        self.replicas = [Replica(url, _headers(self._key)) for url in model.urls]
        self._last = -1
        self._retries = RetryBudget()
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._obstacle is None:
            self._watcher = asyncio.create_task(self._watch(), name=f"replicas of {self.name}")
        else:
            log.error("%s: cannot be served: %s", self.name, self._obstacle)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        for replica in self.replicas:
            replica.client.close()

    @property
    def status(self) -> Status:
        """Ready when a replica can be used, starting until the first has been probed."""
        now = time.monotonic()
        usable = [replica for replica in self.replicas if replica.usable(now)]
        if self._obstacle is not None or not usable:
            return Status(State.FAILED, reason=self._obstacle or self._troubles())
        proven = any(replica.probed for replica in usable)
        return Status(State.READY if proven else State.STARTING, can_serve=proven)

    def want(self) -> None:
        """Probes every replica now."""
        for replica in self.replicas:
            replica.doubted.set()

    async def complete(self, ask: Ask, *, wait: float | None = None) -> wire.ChatCompletion:  # noqa: ARG002 - nothing is loaded here
        """A whole answer. What cannot be had now is refused at once, whatever `wait` says.

        Raises:
            GatewayError: the servers refused, are not there, failed or took too long.
        """
        return await upstream.whole(self._sent(ask), self.name)

    def stream(self, ask: Ask, *, wait: float | None = None) -> AsyncGenerator[wire.Chunk, None]:  # noqa: ARG002 - nothing is loaded here
        """The answer as it is made.

        Raises:
            GatewayError: as `complete`, and also in the middle.
        """
        return upstream.streamed(self._sent(ask), self.name, self._request_timeout, self._key)

    # --- requests ---

    @asynccontextmanager
    async def _sent(self, ask: Ask) -> AsyncIterator[Response]:
        """The response of the first or the second replica asked, once its status says that there is an answer."""
        deadline = time.monotonic() + self._request_timeout
        self._retries.earn()
        if self._obstacle is not None or not self._usable():
            raise self._unavailable()
        request = await ask()
        first = self._pick()  # only now: while the pictures were made ready, other requests have been sent
        if first is None:
            raise self._unavailable()
        try:
            call = await self._begun(first, request, deadline)
        except EngineUnavailable:
            second = self._pick(rather_not=first)
            if second is None or not self._retries.spend():
                raise
            call = await self._begun(second, request, deadline)
        verdict = None
        try:
            async with call.response as response:
                yield response
            verdict = True
        except (TimeoutError, TransferError, GatewayError) as error:
            verdict = False
            raise self._fault(error, HTTPStatus.OK, call.replica) from None
        finally:
            self._ended(call.replica, call.era, verdict)

    async def _begun(self, replica: Replica, request: wire.ChatRequest, deadline: float) -> _Call:
        """One request to one replica, which bears the outcome, once its status says that there is an answer.

        Raises:
            EngineUnavailable: no byte came back or the replica said 503: it may be tried again.
            GatewayError: anything else.
        """
        status, verdict = None, None
        era = replica.breaker.begin()
        replica.in_flight += 1
        try:
            response = await self._post(replica, request, deadline)
            status = response.status
            if status != HTTPStatus.OK:
                async with response:
                    raise await upstream.refusal(response, self.name, self._key)
        except (TimeoutError, TransferError, GatewayError) as error:
            verdict = None if status in CLIENT_ERRORS else False
            raise self._fault(error, status, replica) from None
        finally:
            if status != HTTPStatus.OK:
                self._ended(replica, era, verdict)
        return _Call(replica, era, response)

    async def _post(self, replica: Replica, request: wire.ChatRequest, deadline: float) -> Response:
        asked = request if replica.is_vllm else _for_others(request)
        body = wire.encode_request(msgspec.structs.replace(asked, model=self._source))
        left = max(0.001, deadline - time.monotonic())
        return await upstream.post(replica.client, f"{replica.path}/chat/completions", body, seconds=left)

    def _fault(self, error: Exception, status: int | None, replica: Replica) -> GatewayError:
        if isinstance(error, GatewayError):
            return error
        if isinstance(error, TimeoutError):
            return upstream.too_slow(self.name, self._request_timeout)
        if status not in (None, HTTPStatus.OK) or isinstance(error, Garbled):
            return upstream.no_answer(self.name)
        replica.doubted.set()
        return EngineUnavailable(f"The connection to the engine of '{self.name}' failed or broke off. Try again.")

    def _ended(self, replica: Replica, era: int, verdict: bool | None) -> None:
        replica.in_flight -= 1
        was_closed = replica.breaker.closed
        replica.breaker.end(era, verdict, time.monotonic())
        if was_closed and not replica.breaker.closed:
            log.warning("%s: %s fails too often and is left alone for a while", self.name, replica.url)

    # --- replicas ---

    def _usable(self) -> dict[int, int]:
        """The requests under way at each replica that can be used, by its place."""
        now = time.monotonic()
        return {at: replica.in_flight for at, replica in enumerate(self.replicas) if replica.usable(now)}

    def _pick(self, rather_not: Replica | None = None) -> Replica | None:
        usable = self._usable()
        others = {at: in_flight for at, in_flight in usable.items() if self.replicas[at] is not rather_not}
        chosen = choose(others or usable, self._last)
        if chosen is None:
            return None
        self._last = chosen
        return self.replicas[chosen]

    def _troubles(self) -> str:
        """Why no replica can be used, for clients: no host is named."""
        causes = sorted({replica.trouble or "too many failures" for replica in self.replicas})
        return f"none of its servers can be used now ({', '.join(causes)})"

    def _unavailable(self) -> EngineUnavailable:
        if self._obstacle is not None:
            error = EngineUnavailable(f"The model '{self.name}' cannot be served: {self._obstacle}.")
            error.heals = False
            return error
        left = min(replica.usable_at() for replica in self.replicas) - time.monotonic()
        return EngineUnavailable(
            f"The model '{self.name}' cannot be served: {self._troubles()}. They are looked at again and again, so try "
            "again soon; if it stays so, have them mended.",
            retry_after=max(1.0, left),
        )

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                group.create_task(self._keep_probing(replica))

    async def _keep_probing(self, replica: Replica) -> None:
        while True:
            trouble = await self._trouble(replica)
            if trouble is not None and trouble != replica.trouble:
                log.warning("%s: %s is set aside: %s", self.name, replica.url, trouble)
            elif trouble is None and (replica.trouble is not None or not replica.probed):
                log.info("%s: %s can be used", self.name, replica.url)
            replica.trouble, replica.probed = trouble, True
            pause = PROBE_EVERY * random.uniform(0.75, 1.0)  # noqa: S311 - no secret hangs on it
            replica.next_probe = time.monotonic() + pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await replica.doubted.wait()
            replica.doubted.clear()

    async def _trouble(self, replica: Replica) -> str | None:
        """What its probe finds, whatever that may be: one that is never probed again would never come back."""
        try:
            return await self._probe(replica)
        except Exception:
            log.exception("%s: the probe of %s failed", self.name, replica.url)
            return "a probe that failed"

    async def _probe(self, replica: Replica) -> str | None:
        """What is wrong with a replica, or None. Learns as well whether it is a vLLM, which remembers pictures."""
        try:
            async with await replica.client.get(f"{replica.path}/models", seconds=PROBE_TIMEOUT) as response:
                if response.status != HTTPStatus.OK:
                    return f"status {response.status}"
                listing = _decode_listing(await upstream.limited(response))
        except (TimeoutError, TransferError):
            return "no answer"
        except (EngineFault, *upstream.UNREADABLE):
            return "no list of models"
        replica.is_vllm = any(model.owned_by == "vllm" for model in listing.data or ())
        return None


def choose(in_flight: Mapping[int, int], last: int) -> int | None:
    """The place of the least busy replica, of several the one whose turn it is after `last`; None when there is none.

    `in_flight` has the number of requests under way at each place that can be used.
    """
    return min(in_flight, key=lambda place: (in_flight[place], place <= last, place), default=None)


def _headers(key: str) -> dict[str, str]:
    headers = {"User-Agent": f"altgate/{__version__}"}
    return headers | {"Authorization": f"Bearer {key}"} if key else headers


def _for_others(request: wire.ChatRequest) -> wire.ChatRequest:
    """The request without what only vLLM knows: strict servers refuse a field that they do not know."""
    messages = [
        msgspec.structs.replace(message, content=[_without_uuid(part) for part in message.content])
        for message in request.messages
    ]
    return msgspec.structs.replace(request, messages=messages, cache_salt=None)


def _without_uuid(part: wire.Part) -> wire.Part:
    return wire.PicturePart(part.image_url) if isinstance(part, wire.PicturePart) else part
