"""Lets vLLM run in an environment where torch is built for the CPU, and what stands beside it for CUDA.

vLLM requires torchvision, torchaudio and torchcodec. Package registries have them for CUDA alone, and without it
importing them fails. torchvision is mended (see `torchvision_operators.py`). The other two are for sound and films,
which vLLM and Transformers do without where they are missing, so they are made to look missing.
"""

import subprocess
import sys
from pathlib import Path

DISPENSABLE = ("torchaudio", "torchcodec")


def install(site_packages: Path) -> None:
    """Write what every Python of the environment does at its start; doing so again changes nothing."""
    start = site_packages / "cpu_torch.pth"
    start.unlink(missing_ok=True)
    mended = [str(Path(__file__).resolve().parent), "import torchvision_operators"]
    hidden = [f"import sys; sys.modules[{package!r}] = None" for package in DISPENSABLE if not importable(package)]
    start.write_text("".join(f"{line}\n" for line in [*mended, *hidden]))


def importable(package: str) -> bool:
    """Tell whether a new Python can import the package."""
    return subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0
