"""Asks a server of this machine whether it is well: `python -m engines.health PORT`; the exit status is the answer.

For containers, whose images have no other program that could ask.
"""

import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from typing import Final

PATIENCE: Final = 3.0  # seconds


def main(arguments: Sequence[str]) -> int:
    """Returns 0 where `/health` answers 200 on that port of this machine, and 1 where it does not."""
    (port,) = arguments
    connection = HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"altgate: nothing answers on port {port} ({error or type(error).__name__})\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"{status}\n")
    return int(status != 200)  # noqa: PLR2004


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
