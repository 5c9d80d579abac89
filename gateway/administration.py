"""`altgate cache` and `altgate usage`: ask a running gateway, over HTTP."""

import http.client
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

from gateway import wire

TIMEOUT = 60.0  # seconds

T = TypeVar("T")


class Refused(Exception):
    """The gateway cannot be reached or refuses; in a sentence for people."""


def stats(url: str, key: str | None) -> str:
    """What the gateway at `url` says of its cache, for people.

    Raises:
        Refused: it says nothing.
    """
    report = _asked("GET", "/admin/cache", url, key, query={}, decode=wire.decode_report)
    rows = [
        f"found             {report.hits}",
        f"shared while made {report.joins}",
        f"made              {report.misses}",
        f"made on demand    {report.bypasses}",
        f"saved             {report.saved_seconds:.1f} s of engines' time, {report.saved_tokens} tokens",
        *([f"not in Redis      {report.not_shared}"] if report.redis is not None else []),
    ]
    return "\n".join([*rows, *_amounts(report)])


def clear(url: str, key: str | None, chosen: Mapping[str, str]) -> tuple[str, bool]:
    """Removes answers from the cache of the gateway at `url`: what was removed, and whether that is all there was.

    Raises:
        Refused: it does not do it.
    """
    removed = _asked("DELETE", "/admin/cache", url, key, query=chosen, decode=wire.decode_removed)
    asked = (("A worker", removed.memory), ("Redis", removed.redis))
    late = " and ".join(who for who, amount in asked if amount is not None and not amount.complete)
    rest = [f"{late} did not answer in time: there may be more. Run this again."] if late else []
    return "\n".join([*_amounts(removed), *rest]), not late


def usage(url: str, key: str | None, chosen: Mapping[str, str]) -> wire.UsageReport:
    """What the gateway at `url` says of its usage.

    Raises:
        Refused: it says nothing.
    """
    return _asked("GET", "/admin/usage", url, key, query=chosen, decode=wire.decode_usage)


def _amounts(told: wire.CacheReport | wire.CacheRemoved) -> Iterator[str]:
    for name, amount in (("memory", told.memory), ("Redis", told.redis)):
        if amount is not None:
            more = "" if amount.complete else ", or more"
            yield f"{name:17} {amount.entries} answers, {amount.bytes / 2**20:.1f} MiB{more}"


def _asked(
    method: str, resource: str, url: str, key: str | None, *, query: Mapping[str, str], decode: Callable[[bytes], T]
) -> T:
    connection, base = _connection(url)
    path = base + resource
    headers = {"authorization": f"Bearer {_plain(key)}"} if key else {}
    try:
        connection.request(method, f"{path}?{urlencode(query)}" if query else path, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        where = f"{urlsplit(url).scheme}://{connection.host}:{connection.port}"
        raise Refused(f"No gateway answers at {where} ({type(error).__name__}).") from None
    finally:
        connection.close()
    try:
        if status == http.client.OK:
            return decode(body)
        raise Refused(wire.decode_error(body).error.message)
    except ValueError:
        raise Refused(f"What answers there, with the status {status}, is no gateway.") from None


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    """The way to the gateway at `url`, and the path that everything there is below."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise Refused("A URL is wanted that begins with http:// or https://, such as http://127.0.0.1:8000.")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=TIMEOUT), parts.path.rstrip("/").removesuffix("/v1")


def _plain(key: str) -> str:
    """A key without the line's end that a file adds to it."""
    stripped = key.strip()
    if not stripped.isascii() or not stripped.isprintable():
        raise Refused("The key has characters in it that no key has. Copy it once more.")
    return stripped
