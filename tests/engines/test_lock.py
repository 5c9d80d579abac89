"""One at a time, whoever else wants to."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engines.lock import held

ROOT = Path(__file__).parents[2]


def test_only_one_holds_it(tmp_path: Path) -> None:
    """Though each removes it from under those who wait."""
    inside = threading.Lock()

    def take(_: int) -> bool:
        with held(tmp_path / "lock"):
            alone = inside.acquire(blocking=False)
            time.sleep(0)  # lets the others in, if they can
            if alone:
                inside.release()
            return alone

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(take, range(400)))
    assert not list(tmp_path.iterdir())


def test_it_ends_with_its_holder(tmp_path: Path) -> None:
    """However that ends: the file alone hinders nobody."""
    code = "import os, sys; from pathlib import Path; from engines.lock import held\n"
    code += "with held(Path(sys.argv[1])): os._exit(9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert (tmp_path / "lock").exists()

    with held(tmp_path / "lock"):
        pass

    assert not list(tmp_path.iterdir())
