"""How many connections there is room for, on systems that let a process open more files or fewer."""

import subprocess
import sys

import pytest

CODE = """
import logging, resource
from gateway.descriptors import room_for
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(room_for(1000, others=100), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "outcome", "warns"),
    [
        (256, 4096, "1000 1100 4096", False),
        (2048, 4096, "1000 2048 4096", False),
        (256, 600, "500 600 600", True),
        (50, 60, "1 60 60", True),
    ],
)
def test_as_many_files_are_asked_for_as_are_needed(soft: int, hard: int, outcome: str, warns: bool) -> None:
    """No more than the system may give; where that is too few, fewer connections are taken, and it is said."""
    code = CODE.format(soft=soft, hard=hard)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == outcome
    assert ("raise its hard limit" in done.stderr) == warns
