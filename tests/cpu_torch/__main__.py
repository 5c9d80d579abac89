"""`python -m tests.cpu_torch` prepares the environment that it runs in (see `install.py`)."""

import sysconfig
from pathlib import Path

from tests.cpu_torch.install import install

install(Path(sysconfig.get_path("purelib")))
