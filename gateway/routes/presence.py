"""Whether the client is still there: work for one that has left ends at once."""

import asyncio
from types import TracebackType
from typing import Any, cast

from litestar.types import Scope

from gateway.errors import GatewayError
from gateway.http1.exchange import WATCH, Watch
from gateway.record import CLIENT_LEFT


class ClientLeft(GatewayError):
    """The client hung up. Nobody will read this; it is for the log."""

    status = CLIENT_LEFT


class Presence:
    """Ends what is done in its context when the client leaves, as `asyncio.timeout` does when time is up.

    The request's body has been received before.

    Raises:
        ClientLeft: at its end, when the client has left.
    """

    def __init__(self, scope: Scope) -> None:
        self._watch: Watch = cast("Any", scope)["extensions"][WATCH]
        self._left = self._is_over = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("requests are answered in tasks")
        self._task = task
        self._cancelling = task.cancelling()
        self._watch(self._end)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._watch(None)
        if self._left and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientLeft("The client left before the answer was ready.") from None

    def _end(self) -> None:
        if not self._is_over:
            self._left = True
            self._task.cancel()
