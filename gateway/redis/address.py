"""What the URL of a Redis says: one server, the master that Sentinels name, or a cluster; plain or in TLS.

    redis://[user:password@]host[:port][/db]            unix://path
    redis+sentinel://[…@]host[:port],…/service[/db]     redis+cluster://[…@]host[:port],…

With `rediss` for `redis` they speak TLS. Behind a `?` stand redis-py's own options, such as `ssl_ca_certs`,
`ssl_certfile` and `ssl_keyfile`; those that begin with `sentinel_` (`sentinel_password`) are for the Sentinels.
"""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

from msgspec import Struct

FORMS = "redis://localhost:6379/0, unix:///path, redis+sentinel://host:26379/service or redis+cluster://host:6379"
DEFAULT_PORT = {"server": 6379, "cluster": 6379, "sentinel": 26379}
CONNECT_TIMEOUT = 2.0  # seconds

_URL = re.compile(
    r"(?P<scheme>rediss?|unix)(?:\+(?P<kind>sentinel|cluster))?://(?:(?P<login>[^@/?]*)@)?(?P<hosts>[^/?]*)"
    r"(?:/(?P<path>[^?]*))?(?:\?(?P<options>.*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+)(?::(?P<port>\d{1,5}))?")

Kind = Literal["server", "sentinel", "cluster"]


class Address(Struct, frozen=True, kw_only=True):
    """Where a Redis is. `url` is the form that redis-py reads, with the login, the database and the options."""

    kind: Kind
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""


def read(url: str) -> Address:
    """The address.

    Raises:
        ValueError: it is none; the message says what is missing, and never the password.
    """
    found = _URL.fullmatch(url)
    if found is None or (found["scheme"] == "unix" and found["kind"]):
        raise ValueError(f"a URL is wanted, such as {FORMS}")
    if found["kind"] is None:
        return Address(kind="server", url=url)
    kind: Kind = "sentinel" if found["kind"] == "sentinel" else "cluster"
    hosts = tuple(_host(text, DEFAULT_PORT[kind]) for text in found["hosts"].split(","))
    service, _, database = (found["path"] or "").partition("/") if kind == "sentinel" else ("", "", "")
    if kind == "sentinel" and not service:
        raise ValueError("the service that the Sentinels watch is wanted behind the hosts: …:26379/service")
    login = f"{found['login']}@" if found["login"] else ""
    plain = f"{found['scheme']}://{login}host/{database}?{found['options'] or ''}"
    return Address(kind=kind, url=plain, hosts=hosts, service=service)


def _host(text: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ValueError("hosts are wanted, each with or without a port, separated by commas: one:6379,other:6379")
    return found["host"].strip("[]"), int(found["port"] or port)


def check(url: str) -> None:
    """Finds what is wrong with a URL without connecting.

    Raises:
        ValueError: it cannot be read, or has an option that redis-py does not know.
    """
    address = read(url)
    try:
        match address.kind:
            case "server":
                _server(address).connection_pool.make_connection()
            case "sentinel":
                _sentinel(address)[0].connection_pool.make_connection()
            case "cluster":
                _cluster(address)
    except TypeError:  # from the constructor that the options are passed to
        raise ValueError("behind the '?' stands an option that redis-py does not know") from None


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    """A client of redis-py that fails fast and never tries again by itself: whoever asks sets the limit."""
    address = read(url)
    async with AsyncExitStack() as stack:
        match address.kind:
            case "server":
                made: Any = _server(address)
            case "sentinel":
                made, sentinels = _sentinel(address)
                stack.push_async_callback(sentinels.aclose)
            case "cluster":
                made = _cluster(address)
        stack.push_async_callback(made.aclose)
        yield made


def _settings() -> dict[str, Any]:
    from redis.asyncio.retry import Retry  # noqa: PLC0415 - redis takes long to import and is not always wanted
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415

    return {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        # With these, the pool would not notice an answer that nobody has read, and hand it to the next who asks.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _server(address: Address) -> Any:
    from redis.asyncio import Redis  # noqa: PLC0415

    return Redis.from_url(address.url, **_settings())


def _options(address: Address) -> dict[str, Any]:
    """What redis-py reads in the URL, without the host."""
    from redis.asyncio.connection import parse_url  # noqa: PLC0415

    return {key: value for key, value in parse_url(address.url).items() if key not in ("host", "connection_class")}


def _sentinel(address: Address) -> tuple[Any, Any]:
    """The master's client, and the Sentinels, which are to be closed as well."""
    from redis.asyncio.sentinel import Sentinel  # noqa: PLC0415

    options = _options(address)
    own = {key.removeprefix("sentinel_"): options.pop(key) for key in [*options] if key.startswith("sentinel_")}
    shared = _settings() | {key: value for key, value in options.items() if key.startswith(("ssl_", "socket_"))}
    if address.url.startswith("rediss"):
        shared["ssl"] = options["ssl"] = True
    sentinels: Any = Sentinel(address.hosts, sentinel_kwargs=shared | own, **(_settings() | options))  # type: ignore[no-untyped-call]
    return sentinels.master_for(address.service), sentinels


def _cluster(address: Address) -> Any:
    from redis.asyncio import RedisCluster  # noqa: PLC0415
    from redis.asyncio.cluster import ClusterNode  # noqa: PLC0415

    options = _settings() | _options(address)
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    return RedisCluster(startup_nodes=nodes, ssl=address.url.startswith("rediss"), **options)
