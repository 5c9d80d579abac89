"""Fetches pictures by URL: each only once for all of a team who ask at the same time, and not at once again after a
failure.

Whatever goes wrong on the network, the client reads one and the same sentence; the cause is chained to the error, for
the log of whoever runs the gateway. A download goes on within its team's limits, so another team has one of its own.
"""

from functools import partial
from ssl import SSLContext
from types import TracebackType

from gateway.config import ImagesConfig
from gateway.errors import GatewayError, Overloaded
from gateway.images import installed, refusal
from gateway.images.connector import Lookup
from gateway.images.download import FAILURES, Downloader, TooManyBytesError
from gateway.images.flights import Failures, Flights
from gateway.images.places import NoPlaceError, Places, for_team
from gateway.images.policy import Policy
from gateway.images.url import Target, UrlError

MAX_DOWNLOADS = 256  # under way at once
PATIENCE = 8.0  # seconds that one waits for one's turn, before the download's own time begins


class JustFailedError(Exception):
    """The same URL failed less than a minute ago."""


class Fetcher:
    """Fetches pictures; an async context manager, to be entered once. The arguments are those of `Downloader`."""

    def __init__(
        self,
        config: ImagesConfig,
        *,
        lookup: Lookup | None = None,
        tls: SSLContext | None = None,
        own_port: int | None = None,
    ) -> None:
        self._config = config
        self._policy = Policy(
            ports=config.allowed_ports,
            networks=config.allowed_networks,
            allowed_hosts=config.allowed_hosts,
            denied_hosts=config.denied_hosts,
        )
        self._downloader = Downloader(config, self._policy, lookup=lookup, tls=tls, own_port=own_port)
        self._flights: Flights[bytes | Exception] = Flights()
        self._failures = Failures()
        self._places = Places(MAX_DOWNLOADS)

    async def __aenter__(self) -> "Fetcher":
        await self._downloader.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._downloader.__aexit__(kind, error, trace)

    async def fetch(self, url: str, *, param: str) -> bytes:
        """The bytes behind the URL, at least one and at most `max_bytes`.

        They take `fetch_timeout` seconds at most, once it is their turn, which is that of `places.for_team`.

        Raises:
            PictureError: `invalid_image_url`, `image_file_too_large` or `empty_image_file`, at `param`.
            Overloaded: too many pictures are being fetched.
        """
        try:
            target = self._policy.parse(url)
        except UrlError as fault:
            raise refusal.unusable_url(param, str(fault)) from None
        found = await self._flights.join(f"{target} {for_team.get()}", partial(self._attempt, target))
        if isinstance(found, Exception):
            raise self._refused(found, param) from found
        if not found:
            raise refusal.empty(param)
        return found

    async def _attempt(self, target: Target) -> bytes | Exception:
        """The bytes, or why there are none: as a value, for it may be told to many."""
        if str(target) in self._failures:
            return JustFailedError()
        try:
            async with self._places.place(target.host, patience=PATIENCE):
                return await self._downloader.download(target)
        except (TooManyBytesError, NoPlaceError) as error:
            return error
        except FAILURES as error:
            self._failures.remember(str(target))
            return error

    def _refused(self, error: Exception, param: str) -> GatewayError:
        if isinstance(error, TooManyBytesError):
            return refusal.too_many_bytes(param, self._config.max_bytes)
        if isinstance(error, NoPlaceError):
            return Overloaded("Too many pictures are being downloaded. Try again in a moment.", param=param)
        return refusal.unreachable(param, installed.readable(self._config.formats))
