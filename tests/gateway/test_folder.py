"""Private folders that go with their process."""

import subprocess
import sys
from pathlib import Path

from gateway.folder import Folder
from gateway.machine import FOLDERS

HELD = """
import sys, time
from pathlib import Path
from gateway.folder import Folder
with Folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    print(folder.path, flush=True)
    time.sleep(60)
"""


def test_the_engines_folder_of_a_killed_gateway_is_swept_away(tmp_path: Path) -> None:
    """By the next one to start; never that of one that lives, and nothing of another name."""
    (tmp_path / "altgate-mine").mkdir()
    command = [sys.executable, "-c", HELD, str(tmp_path), FOLDERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with Folder(tmp_path, FOLDERS) as folder:
            assert {left, folder.path} < set(tmp_path.iterdir())
        process.kill()
    with Folder(tmp_path, FOLDERS) as folder:
        assert set(tmp_path.iterdir()) == {folder.path, tmp_path / "altgate-mine"}
        assert folder.path.stat().st_mode & 0o777 == 0o700
