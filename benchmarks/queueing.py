"""A queue to launch into, and the cost of a launch: time, calls of Slurm, files."""

from __future__ import annotations

import getpass
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storm import ROOT

from slurm.testbed import Bed

PASSES = 3


@dataclass(frozen=True)
class Row:
    """A measurement, and the goal for it."""

    what: str
    runs: int
    seconds: float | None
    note: str = ""
    goal: str = ""
    cpu: float | None = None
    """CPU seconds, if measured: they depend least on the machine's load."""


class Queue:
    """A test bed that queues jobs without starting them, and counts calls of Slurm's commands."""

    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed, self.folder = bed, folder
        self.calls = folder / "calls"
        (folder / "tools").mkdir()
        for tool in ("sbatch", "squeue", "sacct", "scontrol"):
            script = folder / "tools" / tool
            script.write_text(
                f'#!/bin/sh\necho {tool} >> {self.calls}\nPATH="$BED_PATH" exec {tool} "$@"\n'
            )
            script.chmod(0o755)
        bed.run("scontrol", "update", "PartitionName=main", "State=DOWN")

    def environ(self, **more: str) -> dict[str, str]:
        env = os.environ | self.bed.env()
        tools = {"BED_PATH": env["PATH"], "PATH": f"{self.folder / 'tools'}:{env['PATH']}"}
        return env | tools | {"PYTHONPATH": str(ROOT)} | more

    def empty(self) -> None:
        self.bed.run("scancel", "--user", getpass.getuser())
        self.calls.write_text("")

    def count(self, tool: str) -> int:
        return self.calls.read_text().split().count(tool)

    @property
    def queued(self) -> int:
        return len(self.bed.run("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i").split())

    def measure(
        self, what: str, runs: int, command: Callable[[Path], list[str]], goal: str = "",
        passes: int = PASSES, **environ: str,
    ) -> Row:  # fmt: skip
        """Launch into a new folder, `passes` times; the best time. Raises ValueError if the launch
        fails or jobs are missing in the queue."""
        best = (float("inf"), 0.0)
        for _ in range(passes):
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                folder = Path(name)
                line = command(folder)
                before = {*folder.rglob("*")}
                self.empty()
                best = min(best, _timed(line, self.environ(**environ), folder))
                if self.queued != runs:
                    raise ValueError(f"{what}: {self.queued} of {runs} jobs are in the queue")
                made = [p for p in folder.rglob("*") if p.is_file() and p not in before]
        code = sum("code" in path.parts or ".git" in path.parts for path in made)
        files = f"{len(made) - code} files" + (f" and a copy of the code ({code})" if code else "")
        calls = f"{self.count('sbatch')} sbatch, {self.count('squeue')} squeue"
        note = f"{calls}, {self.count('scontrol')} scontrol; {files}"
        return Row(what, runs, best[0], note, goal, best[1])


def _timed(line: list[str], environ: dict[str, str], folder: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of a process and its children. Raises ValueError with the last line of
    its output if it fails."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(line, env=environ, cwd=folder, stdout=said, stderr=said)
        _, ended, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode:
            said.seek(0)
            raise ValueError(f"{line[-1]}: {said.read().decode().strip().splitlines()[-1:]}")
    return wall, used.ru_utime + used.ru_stime
