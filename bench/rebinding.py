"""Does a name whose answers change lead anywhere it should not? `python -m bench.rebinding`: 10,000 times.

In a network of its own, where that may be made, with the system's resolver, a name server that changes its mind with
every question (each answer may live 0 seconds), and the kernel's count of connections; elsewhere with a table for the
name server. One of the two addresses is opened, the other has a server on the same machine that must hear nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.gateway.images import isolated


def main() -> None:
    """Prints the report; fails when a server was reached that should not have been."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000, help="(%(default)s)")
    rounds, began, alone = parser.parse_args().rounds, time.monotonic(), isolated.can_isolate()
    with tempfile.TemporaryDirectory() as folder:
        done = isolated.report(Path(folder), rounds, isolated=alone)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout)
    print(f"{rounds} rounds in {time.monotonic() - began:.0f} s, {'in a network of their own' if alone else 'here'}")
    for name, value in found.items():
        print(f"{name:15} {value:8.0f}")
    sys.exit(bool(found["secrets"] or found["dialled"]))


if __name__ == "__main__":
    main()
