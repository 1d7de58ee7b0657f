"""The binaries that a test bed needs, and the packages that contain them (Debian, Ubuntu)."""

import os
import shutil
import subprocess

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where the daemons are, often not in a user's PATH
_PACKAGE = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}
_DBD_PACKAGE = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}


def search_path() -> str:
    """$PATH followed by the system's sbin folders."""
    return f"{os.environ.get('PATH', os.defpath)}:{SBIN}"


def missing(*, dbd: bool = False) -> list[str]:
    """Packages that are not installed; dbd: include those of the accounting database."""
    needed = _PACKAGE | (_DBD_PACKAGE if dbd else {})
    return [p for binary, p in needed.items() if shutil.which(binary, path=search_path()) is None]


def install_missing(*, dbd: bool = False) -> list[str]:
    """Install missing packages with apt-get, as root or through sudo; returns them.

    Raises CalledProcessError if apt-get fails.
    """
    if not (packages := missing(dbd=dbd)):
        return []
    apt = [*(["sudo"] if os.geteuid() else []), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "-y", "--no-install-recommends", *packages], check=True)
    return packages
