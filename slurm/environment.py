"""The Slurm job of this process, read from its environment without running a command."""

import os
import pwd
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """The current job."""

    id: str | None  # as squeue prints it, "7_3" for a task of an array; None outside Slurm
    restarts: int  # how often Slurm has requeued it
    node: str
    rank: int  # 0 to world_size - 1, among the processes that work on the same run
    local_rank: int
    world_size: int


def current(environ: Mapping[str, str] = os.environ) -> Job:
    """The job of this process.

    Ranks are read only under submitit: a shell on a node (salloc, an interactive session) has
    Slurm's variables, too, but processes started in it do not work together.
    """
    variables = {
        "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
        "local": ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_LOCALID", "SUBMITIT_LOCAL_NTASKS"),
    }.get(environ.get("SUBMITIT_EXECUTOR", ""), ("", "", ""))
    rank, local_rank, world_size = (environ.get(name) for name in variables)
    return Job(
        id=_job_id(environ),
        restarts=int(environ.get("SLURM_RESTART_COUNT", 0)),
        node=environ.get("SLURMD_NODENAME") or socket.gethostname(),
        rank=int(rank or 0),
        local_rank=int(local_rank or 0),
        world_size=int(world_size or 1),
    )


def user() -> str:
    """The user that Slurm sees as this process's owner; $USER and $LOGNAME may differ."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container without the cluster's users
        return str(os.geteuid())


def node_tmpdir(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The job's folder on the node's own disk, $SLURM_TMPDIR; None if there is no writable one."""
    path = environ.get("SLURM_TMPDIR")
    return Path(path) if path and os.access(path, os.W_OK | os.X_OK) else None


def _job_id(environ: Mapping[str, str]) -> str | None:
    # For a task of an array, SLURM_JOB_ID is a number that squeue and scontrol do not show.
    if array := environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID")
