"""`altgate` with more patience for Redis, for tests with a Redis that is well on a machine that is busy.

What the limits themselves do has its own tests.
"""

from gateway import cli
from gateway.redis import lease, link

if __name__ == "__main__":
    link.PATIENCE = lease.PATIENCE = 10.0
    cli.main()
