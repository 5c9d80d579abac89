"""Clients that do nothing, or next to nothing: `python -m bench.front.idle [--idle N] [--trickling N]`.

A good client asks one question after another, alone at first, then with so many idle connections, and then with clients
beside them that send their headers, or their bodies, a byte a second. The gateway has a core of its own.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import uvloop

from bench.front.client import Client, Pool, percentile
from bench.front.overload import OK, asked, gateway, memory, request
from gateway.descriptors import room_for

ROUNDS = 400
TEXT = asked(0)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"


def main() -> None:
    """Prints a line for each kind of company."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--idle", type=int, default=5000)
    parser.add_argument("--trickling", type=int, default=200, help="half of them with their headers, half with bodies")
    options = parser.parse_args()
    room_for(options.idle, others=1000)
    with tempfile.TemporaryDirectory() as name, gateway(Path(name), admitted=512, service=0.0) as (port, process):
        uvloop.run(_run(port, process.pid, options.idle, options.trickling))


async def _run(port: int, pid: int, idle: int, trickling: int) -> None:
    pool = Pool(port)
    print("                                            p50 ms   p99 ms    lost     MiB")
    await _told("", pool, pid)
    await _told("alone", pool, pid)
    sleepers = [await _connected(port) for _ in range(idle)]
    for sleeper in sleepers[: idle // 2]:  # the others have asked nothing yet, and have ten seconds for it
        await sleeper.ask(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", patience=30)
    await _told(f"with {idle:,} idle connections", pool, pid)
    drips = asyncio.create_task(_trickle(port, trickling))
    await asyncio.sleep(2)
    await _told(f"and {trickling:,} that trickle", pool, pid)
    drips.cancel()
    print(f"{sum(sleeper.is_open for sleeper in sleepers):,} of the idle connections are still open")


async def _told(company: str, pool: Pool, pid: int) -> None:
    told = [await pool.ask(request(TEXT)) for _ in range(ROUNDS)]
    times = [each.seconds for each in told]
    lost = sum(each.status != OK for each in told)
    if company:
        print(f"{company:40} {percentile(times, 0.5):9.2f} {percentile(times, 0.99):8.2f} {lost:7} {memory(pid):7.1f}")


async def _connected(port: int) -> Client:
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


async def _trickle(port: int, number: int) -> None:
    """So many clients that send a byte a second, and come again when they are sent away."""
    clients: list[tuple[Client, int]] = []
    while True:
        clients = [(client, sent) for client, sent in clients if client.is_open]
        while len(clients) < number:
            with_body = len(clients) % 2 == 1
            client = await _connected(port)
            client.write(HEAD if with_body else HEAD[:1])
            clients.append((client, len(HEAD) if with_body else 1))
        for at, (client, sent) in enumerate(clients):
            client.write(HEAD[sent : sent + 1] or b"x")
            clients[at] = (client, sent + 1)
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
