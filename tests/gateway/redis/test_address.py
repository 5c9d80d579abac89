"""Every form in which Redis comes: one server, behind TLS, by way of Sentinels, a cluster. Real ones, all of them."""

import asyncio
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from gateway.cache import Cache, Selection
from gateway.cache.memory import MemoryStore
from gateway.cache.redis import RedisStore
from gateway.redis import Link, RedisLeases, address
from gateway.shared import Unanswered
from tests.gateway.cache.answers import USAGE, choices, named
from tests.gateway.redis.servers import certificates, cluster, sentinel, server

PASSWORD = "a/pass@word:?"  # what has a meaning in a URL is to be written with %


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "service"),
    [
        ("redis://localhost", "server", (), ""),
        ("rediss://u:p@h:1/2?ssl_ca_certs=/x&ssl_check_hostname=no", "server", (), ""),
        ("unix:///a/b?db=1", "server", (), ""),
        ("redis+sentinel://u:p@h:1,i/s/3?sentinel_password=x", "sentinel", (("h", 1), ("i", 26379)), "s"),
        ("rediss+sentinel://h/s?ssl_ca_certs=/x", "sentinel", (("h", 26379),), "s"),
        ("redis+cluster://h:1,[::1]:2", "cluster", (("h", 1), ("::1", 2)), ""),
        ("rediss+cluster://u:p@h?ssl_certfile=/x&ssl_keyfile=/y", "cluster", (("h", 6379),), ""),
    ],
)
def test_every_form_is_read(url: str, kind: str, hosts: tuple[tuple[str, int], ...], service: str) -> None:
    """And redis-py knows every option."""
    read = address.read(url)

    assert (read.kind, read.hosts, read.service) == (kind, hosts, service)
    address.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "unix+cluster:///x",
        "redis+sentinel://secret@h:1",
        "redis+sentinel://secret@/service",
        "redis+cluster://u:secret@",
        "redis+cluster://u:secret@h:port",
        "redis://u:secret@h?sll_ca_certs=x",
        "redis://u:secret@h?ssl_ca_certs=x",
        "redis://u:secret@h:99999",
        "redis+cluster://u:secret@h?foo=x",
        "redis+sentinel://u:secret@h/s?sentinel_foo=x",
    ],
)
def test_what_cannot_be_meant_is_refused_without_the_password(url: str) -> None:
    """Before anything is connected."""
    with pytest.raises(ValueError, match=r".") as caught:
        address.check(url)

    assert "secret" not in str(caught.value)


async def used(url: str) -> None:
    """Keeps, finds, leases and removes through that URL, as gateways do."""
    async with Link(url) as link:
        assert not link.is_down
        one, other = (Cache(MemoryStore(max_bytes=2**20), RedisStore(link), ttl=60) for _ in range(2))
        for number in range(50):
            one.keep(named(number), choices(str(number)), USAGE, seconds=1)
        await link.told()
        for number in range(50):
            found = await other.get(named(number))
            assert found is not None
            assert found.choices == choices(str(number))
        async with asyncio.timeout(20), RedisLeases(link).held("t:1"):
            pass
        removed = await other.remove(Selection(scope="t"))
        assert removed.redis is not None
        assert (removed.redis.entries, removed.redis.complete) == (50, True)
        assert not link.is_down


async def test_a_user_that_may_touch_nothing_else_is_enough(tmp_path: Path) -> None:
    """The one that the documentation recommends: our own names, and no command that is dangerous."""
    with server(tmp_path) as port:
        with redis.Redis(port=port) as client:
            client.set("theirs", "x")
            client.execute_command("ACL", "SETUSER", "altgate", "on", ">secret", "~altgate:*", "+@all", "-@dangerous")
        await used(f"redis://altgate:secret@127.0.0.1:{port}")


async def test_a_cluster_is_used(tmp_path: Path) -> None:
    """One node with all slots: what fails in a cluster whatever its size, fails in it."""
    with cluster(tmp_path) as port:
        await used(f"redis+cluster://127.0.0.1:{port}")


async def test_sentinels_are_asked_for_the_master(tmp_path: Path) -> None:
    """The first of two does not answer; both kinds of password hold what has a meaning in a URL."""
    with (
        server(tmp_path, "--requirepass", PASSWORD, password=PASSWORD) as master,
        sentinel(tmp_path, master, PASSWORD) as port,
    ):
        secret = quote(PASSWORD, safe="")
        await used(f"redis+sentinel://:{secret}@127.0.0.1:1,127.0.0.1:{port}/main/3?sentinel_password={secret}")


async def test_tls_with_an_authority_and_a_certificate_of_ones_own(tmp_path: Path) -> None:
    """Both sides show a certificate; without the authority nobody is believed."""
    made = certificates(tmp_path)
    options = [
        "--tls-cert-file",
        made["one.crt"],
        "--tls-key-file",
        made["one.key"],
        "--tls-ca-cert-file",
        made["ca.crt"],
    ]
    shown = {"ssl_ca_certs": made["ca.crt"], "ssl_certfile": made["one.crt"], "ssl_keyfile": made["one.key"]}
    with server(tmp_path, *options, ssl=True, **shown) as port:
        await used(f"rediss://localhost:{port}?{'&'.join(f'{name}={path}' for name, path in shown.items())}")

        for fewer in ({}, {"ssl_ca_certs": made["ca.crt"]}, shown | {"ssl_ca_certs": "/nowhere"}):
            url = f"rediss://localhost:{port}?{'&'.join(f'{name}={path}' for name, path in fewer.items())}"
            async with Link(url) as link:
                assert link.is_down


async def test_after_a_failover_the_new_master_is_used(tmp_path: Path) -> None:
    """The old one is a replica from then on, which reads and does not write."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    secret = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
    with (
        server(folders[0], *secret, password=PASSWORD) as old,
        server(folders[1], *secret, "--replicaof", f"127.0.0.1 {old}", password=PASSWORD) as new,
        redis.Redis(port=new, password=PASSWORD) as other,
    ):
        while other.role()[3] != b"connected":
            await asyncio.sleep(0.02)
        with sentinel(tmp_path, old, PASSWORD) as port, redis.Redis(port=port, password=PASSWORD) as watcher:
            quoted = quote(PASSWORD, safe="")
            url = f"redis+sentinel://:{quoted}@127.0.0.1:{port}/main?sentinel_password={quoted}"
            async with Link(url) as link, asyncio.timeout(60):
                await link.ask(methodcaller("set", "before", "x"), patience=5.0)
                while not _begun(watcher):
                    await asyncio.sleep(0.02)
                while not (other.role()[0] == b"master" and other.get("after")):
                    with suppress(Unanswered):
                        await link.ask(methodcaller("set", "after", "x"), patience=5.0)
                    await asyncio.sleep(0.02)
            assert other.get("before") == b"x"


def _begun(watcher: "redis.Redis") -> bool:
    """Whether a failover has been begun: a Sentinel that has not heard of a replica yet refuses."""
    try:
        watcher.sentinel_failover("main")
    except redis.ResponseError:
        return False
    return True
