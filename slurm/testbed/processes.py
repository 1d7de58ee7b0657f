"""The processes of one test bed, found in /proc by their SLURM_CONF or the folder they are in.

No pid files: they go stale, and steps and jobs have none.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DAEMONS = (
    "munged",
    "mariadbd",
    "slurmdbd",
    "slurmctld",
    "slurmscriptd",
    "slurmd",
    "slurmstepd",
)


@dataclass(frozen=True)
class Process:
    """One process: `node` is the virtual node it is on, None for the bed's own daemons."""

    pid: int
    parent: int
    comm: str
    cwd: str
    conf: str | None
    node: str | None
    in_job: bool


def of(conf: Path) -> list[Process]:
    """Daemons and job processes of the bed whose slurm.conf is `conf`, and all their descendants.

    A shell that merely uses the bed has its SLURM_CONF too, and is not one of them.
    """
    everyone = [p for p in map(_read, _pids()) if p is not None]
    mine = {p.pid: p for p in everyone if _belongs(p, conf)}
    while grown := [p for p in everyone if p.parent in mine and p.pid not in mine]:
        mine |= {p.pid: p for p in grown}  # a child that scrubbed its environment has a parent
    return list(mine.values())


def _belongs(process: Process, conf: Path) -> bool:
    if process.comm not in DAEMONS:
        return process.in_job and process.conf == str(conf)
    # A slurmstepd of 24.11 writes its title over its environment, but stays in the log folder.
    inside = process.cwd.startswith(f"{conf.parents[1]}/")
    return inside or process.conf == str(conf)


def on_node(node: str, processes: Iterable[Process]) -> list[Process]:
    """Those of one node: its slurmd, the job processes, and the steps that hold them."""
    found = [p for p in processes if p.node == node]
    parents = {p.parent for p in found}
    return found + [p for p in processes if p.comm == "slurmstepd" and p.pid in parents]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _read(pid: int) -> Process | None:
    """None when it is gone meanwhile, over (a zombie), or another user's."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        args = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        cwd = os.readlink(f"/proc/{pid}/cwd")
        environ = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return None
    comm, _, rest = stat.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    if state == "Z":
        return None
    variables = dict(item.split("=", 1) for item in environ if "=" in item)
    node = args[args.index("-N") + 1] if comm == "slurmd" and "-N" in args else None
    return Process(
        pid=pid,
        parent=int(parent),
        comm=comm,
        cwd=cwd,
        conf=variables.get("SLURM_CONF"),
        node=node or variables.get("SLURMD_NODENAME"),
        in_job="SLURM_JOB_ID" in variables,
    )


def kill(processes: Iterable[Process], sig: signal.Signals = signal.SIGKILL) -> None:
    """Signals each one; those already gone are no fault."""
    for process in processes:
        try:
            os.kill(process.pid, sig)
        except ProcessLookupError:
            continue


def wait_gone(conf: Path, pids: Iterable[int], timeout_s: float) -> bool:
    """True once none of `pids` is a process of the bed any more."""
    gone = set(pids)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if not gone & {p.pid for p in of(conf)}:
            return True
        time.sleep(0.02)
    return False
