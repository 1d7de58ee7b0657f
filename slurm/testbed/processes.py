"""The processes of a test bed, found in /proc by their SLURM_CONF or working folder.

Not by pid files, which become outdated and do not exist for steps and jobs.
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
    """A process. node: the virtual node that it is on, None for daemons of the whole bed."""

    pid: int
    parent: int
    comm: str
    cwd: str
    conf: str | None
    node: str | None
    in_job: bool


def of(conf: Path) -> list[Process]:
    """The daemons and job processes of the bed whose slurm.conf is `conf`, with all descendants.

    Shells that only use the bed are not included, although they have its SLURM_CONF.
    """
    everyone = [p for p in map(_read, _pids()) if p is not None]
    mine = {p.pid: p for p in everyone if _belongs(p, conf)}
    while grown := [p for p in everyone if p.parent in mine and p.pid not in mine]:
        mine |= {p.pid: p for p in grown}  # finds children that have cleared their environment
    return list(mine.values())


def _belongs(process: Process, conf: Path) -> bool:
    if process.comm not in DAEMONS:
        return process.in_job and process.conf == str(conf)
    # slurmstepd of 24.11 overwrites its environment with its title, but stays in the log folder.
    inside = process.cwd.startswith(f"{conf.parents[1]}/")
    return inside or process.conf == str(conf)


def on_node(node: str, processes: Iterable[Process]) -> list[Process]:
    """The processes of one node: the steps, then slurmd and the job processes.

    Killed in this order, no step lives to report that its job has ended.
    """
    found = [p for p in processes if p.node == node and p.comm != "slurmstepd"]
    parents = {p.parent for p in found}
    steps = [
        p for p in processes if p.comm == "slurmstepd" and (p.node == node or p.pid in parents)
    ]
    return steps + found


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _read(pid: int) -> Process | None:
    """The process, or None if it has ended meanwhile, is a zombie, or is another user's."""
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
    """Send a signal to each process; those that have ended are ignored."""
    for process in processes:
        try:
            os.kill(process.pid, sig)
        except ProcessLookupError:
            continue


def wait_gone(conf: Path, pids: Iterable[int], timeout_s: float) -> bool:
    """Wait until none of `pids` is a process of the bed; False after `timeout_s`."""
    gone = set(pids)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if not gone & {p.pid for p in of(conf)}:
            return True
        time.sleep(0.02)
    return False
