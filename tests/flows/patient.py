"""`altgate` with more patience for Redis, for tests with a Redis that is well on a machine that is busy.

What the limits themselves do has its own tests.
"""

import sys

from gateway import cli
from gateway.redis import lease, link
from gateway.workers import crew

if __name__ == "__main__":
    link.PATIENCE = lease.PATIENCE = 10.0
    crew.MODULE = "tests.flows.patient"
    if sys.argv[1:2] == ["serve"]:
        cli.main()
    else:
        from gateway.workers.worker import main

        main()
