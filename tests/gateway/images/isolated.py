"""A program: what is refused, tried in a network of its own, where every connection can be counted.

Its report says how often a name whose answers change, `rounds` times, led to the one address of two that is opened.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

from gateway.config import ImagesConfig
from gateway.errors import PictureError
from gateway.images.connector import Lookup
from gateway.images.fetch import Fetcher
from gateway.values import Seconds

from .conftest import Origin
from .network import NXDOMAIN, PARAM, SERVFAIL, NameServer, Reply, answer, watched_dialling
from .refused import REFUSED_AS_WRITTEN, REFUSED_NAMES

ROOT = Path(__file__).parents[3]
OWN = "93.184.215.14"
ISOLATE = ("unshare", "--map-root-user", "--net", "--mount")
NAMES = 16  # whose answers change: each host has but a share of the downloads
AT_ONCE = 64
PATIENCE = 0.5  # seconds for dialling

ANSWERS: dict[str, Reply] = {
    "chain-to-private.test": ["www.chain-to-private.test", "cdn.chain-to-private.test", "10.0.0.1"],
    "chain.t": [*(f"{letter}.t" for letter in "abcdefghijklmnopqrst"), "127.0.0.1"],  # just fits into a datagram
    "unknown.test": NXDOMAIN,
    "broken.test": SERVFAIL,
    "silent.test": None,
}


def can_isolate() -> bool:
    """Whether a network of its own may be made here."""
    attempt = "ip link set lo up && mount --bind /etc/hosts /etc/resolv.conf"
    return subprocess.run([*ISOLATE, "sh", "-c", attempt], capture_output=True, check=False).returncode == 0


def report(folder: Path, rounds: int, *, isolated: bool) -> "subprocess.CompletedProcess[str]":
    """Runs the program, for which `folder` has room; what it prints is the report in JSON."""
    command = [sys.executable, "-m", __name__, str(folder), str(rounds)]
    if isolated:
        command = [*ISOLATE, *command, "isolated"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _prepare(folder: Path) -> None:
    """Every packet stays inside: loopback is the way to everywhere. One public address is this machine's own."""
    for words in (
        "link set lo up",
        f"addr add {OWN}/32 dev lo",
        "route add default dev lo",
        "-6 route add default dev lo",
    ):
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)
    settings = folder / "resolv.conf"
    settings.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    mount = shutil.which("mount")
    assert mount is not None
    subprocess.run([mount, "--bind", str(settings), "/etc/resolv.conf"], check=True, capture_output=True)


def _connections() -> int:
    """How many TCP connections the kernel has started in this network."""
    titles, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:")
    return int(values[titles.index("ActiveOpens")])


@asynccontextmanager
async def _name_server(zone: dict[str, Reply], rebind: "cycle[list[str]]") -> AsyncIterator[None]:
    functions: dict[str, Callable[[], Reply]] = {name: partial(_same, reply) for name, reply in zone.items()}
    changing: dict[str, Callable[[], Reply]] = {
        f"rebind{number}.test": partial(next, rebind) for number in range(NAMES)
    }
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(functions | changing), local_addr=("127.0.0.1", 53)
    )
    try:
        yield
    finally:
        transport.close()


def _same(reply: Reply) -> Reply:
    return reply


def _table(zone: dict[str, Reply], rebind: "cycle[list[str]]") -> Lookup:
    """The name server's replies without the name server."""

    async def lookup(host: str) -> list[str]:
        reply = next(rebind) if host.startswith("rebind") else zone[host]
        if reply is None:
            await asyncio.Event().wait()
        if not isinstance(reply, list):
            raise OSError("no such name")
        return reply[-1:] if "chain" in host else reply

    return lookup


async def _refuse(fetcher: Fetcher, url: str) -> float:
    started = time.monotonic()
    try:
        await fetcher.fetch(url, param=PARAM)
    except PictureError:
        return time.monotonic() - started
    raise AssertionError(f"{url!r} was fetched")


async def _fetched(origin: Origin, secret: Origin, lookup: Lookup | None, rounds: int) -> int:
    """How often a name whose answers change led to the one of two addresses that is opened."""
    config = ImagesConfig(
        allowed_networks=("127.0.0.1/32",),
        allowed_ports=tuple({origin.port, secret.port}),
        connect_timeout=Seconds(PATIENCE),
    )
    ports, count = cycle([origin.port, secret.port]), 0
    urls = [f"http://rebind{number // 2 % NAMES}.test:{next(ports)}/?{number}" for number in range(rounds)]
    async with Fetcher(config, lookup=lookup) as fetcher:
        for at in range(0, rounds, AT_ONCE):
            some = (fetcher.fetch(url, param=PARAM) for url in urls[at : at + AT_ONCE])
            count += sum(isinstance(each, bytes) for each in await asyncio.gather(*some, return_exceptions=True))
    return count


async def _main(isolated: bool, rounds: int) -> dict[str, float]:
    rebind = cycle([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])
    zone = ANSWERS | {f"name{number}.test": answers for number, answers in enumerate(REFUSED_NAMES.values())}
    lookup = None if isolated else _table(zone, rebind)
    urls = [url for urls in REFUSED_AS_WRITTEN.values() for url in urls] + [f"http://{name}/" for name in zone]
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin("127.0.0.1").running())
        secret = await stack.enter_async_context(Origin("127.0.0.2").running())
        origin.answers["/"] = secret.answers["/"] = answer()
        dialled = stack.enter_context(watched_dialling())
        count = _connections if isolated else lambda: len(dialled)
        if isolated:
            await stack.enter_async_context(_name_server(zone, rebind))
            urls.append(f"http://{OWN}/")
        fetcher = await stack.enter_async_context(
            Fetcher(ImagesConfig(connect_timeout=Seconds(PATIENCE)), lookup=lookup)
        )
        before = count()
        times = await asyncio.gather(*(_refuse(fetcher, url) for url in urls))
        after = count()
        fetched = await _fetched(origin, secret, lookup, rounds)
        return {
            "refused": len(times),
            "slowest": max(times),
            "dialled": after - before,
            "dialled later": count() - after,
            "fetched": fetched,
            "secrets": secret.connections,
        }


if __name__ == "__main__":
    ISOLATED = len(sys.argv) > 3
    if ISOLATED:
        _prepare(Path(sys.argv[1]))
    print(json.dumps(asyncio.run(_main(ISOLATED, int(sys.argv[2])))))
