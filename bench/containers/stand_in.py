"""A Debian tree with Python and pip, in place of a base image where no registry can be reached.

It has Debian's own Python, in Debian's places, pip as this machine has it, and trusts whom this machine trusts.
"""

import shutil
import subprocess
from pathlib import Path

import pip

NAME = "localhost/altgate-stand-in:bookworm"
PACKAGES = "ca-certificates,python3"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")
PIP_COMMAND = """#!/usr/bin/python3
import sys
from pip._internal.cli.main import main
sys.exit(main())
"""
LEFT_OUT = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
)


def tree(folder: Path) -> Path:
    """The tree's folder, without what slim images are without as well.

    Raises:
        SystemExit: debootstrap is not there.
    """
    if shutil.which("debootstrap") is None:
        raise SystemExit(
            "No image registry can be reached. For a stand-in, as root on Debian: apt-get install debootstrap"
        )
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.copy(Path("/") / CERTIFICATES, folder / CERTIFICATES)
    _install_pip(folder / "usr/local")
    for place in LEFT_OUT:
        shutil.rmtree(folder / place)
        (folder / place).mkdir()
    return folder


def _install_pip(place: Path) -> None:
    """As base images have it: the package without compiled files, and its command."""
    (source,) = pip.__path__
    (packages,) = place.glob("lib/python3*/dist-packages")
    shutil.copytree(source, packages / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    command = place / "bin" / "pip"
    command.write_text(PIP_COMMAND)
    command.chmod(0o755)
