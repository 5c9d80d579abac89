"""A process that counts: `python -m tests.gateway.usage.writer FILE REQUESTS` writes each request down by itself.

It prints a line for each that is written, so that whoever kills it knows what it had written for sure.
"""

import asyncio
import sys
from pathlib import Path

from gateway.usage.disk import DiskStore
from gateway.usage.ledger import Ledger
from tests.gateway.usage.made import record


async def _main(file: Path, requests: int) -> None:
    ledger = Ledger(DiskStore(file), {})
    for _ in range(requests):
        ledger.count(record())
        await ledger.flush()
        print("written", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
