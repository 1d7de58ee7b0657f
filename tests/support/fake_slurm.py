"""Slurm's commands as scripts."""

import stat
from pathlib import Path

CONFIG = """\
AccountingStorageEnforce = {enforce}
MaxArraySize            = 501
MaxJobCount             = 10000
SchedulerParameters     = bf_interval=30{more}
"""
"""What `scontrol show config` prints; to be formatted."""


class Fake:
    """Slurm's commands as scripts that print what a test wants and note how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def says(self, command: str, text: str = "", error: str = "", code: int = 0) -> None:
        """Makes `command` print and exit so from now on."""
        (self.folder / f"{command}.out").write_text(text)
        (self.folder / f"{command}.err").write_text(error)
        path = self.folder / command
        path.write_text(
            f'#!/bin/sh\necho {command} "$@" >> {self.folder}/calls\n'
            f"cat {self.folder}/{command}.out; cat {self.folder}/{command}.err >&2; exit {code}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self) -> list[str]:
        """The command lines so far."""
        noted = self.folder / "calls"
        return noted.read_text().splitlines() if noted.exists() else []
