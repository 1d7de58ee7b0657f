"""Why a run failed or stopped: a class that programs act on, and one line that people read.

A process that fails records it itself (`classify`). If it could not, the cause is read from the log
of its Slurm job, its exit code and the accounting (`of_job`).
"""

from __future__ import annotations

import errno
import os
import time
import traceback
from pathlib import Path

from core.errors import ConfigError, DivergedError, StaleError
from slurm import cluster, environment
from slurm.cluster import JobState
from sweep.state import joblog

FAILURES = {
    "oom": "GPU memory",
    "memory": "host memory",
    "diverged": "loss became infinite or NaN",
    "audit": "an evaluation in mode fast failed its audit; a retry falls back to mode exact",
    "data": "data or weights",
    "disk": "no space left",
    "node": "a GPU, file system or node that failed",
    "timeout": "time limit, more often than max_requeues",
    "bug": "any other exception or crash",
    "job": "the job ended before the run began",
    "stale": "made from images or weights that have changed since",
    "damaged": "a file of the run cannot be read",
}
"""Classes of failed runs; only a retry starts such a run again."""
PAUSES = {
    "preempted": "a job of higher priority",
    "requeued": "time limit, preemption or requeue; queued again",
    "stopped": "told to stop by a signal",
    "killed": "its process was killed",
    "hung": "no heartbeat",
    "lost": "died without recording a reason",
}
"""Classes of interrupted runs. `sweep launch` resumes these, and some of class timeout or node."""
DEADLY = frozenset(FAILURES) - {"timeout", "node"}
"""Classes of job ends that would happen again; after any other the run resumes from its
checkpoint."""

LOG_S = 3.0
"""Seconds to wait for Slurm's line in the log about why a job ends: it comes by then or never."""

_ENDS = {
    "OUT_OF_MEMORY": ("memory", "out of memory (host)"),
    "TIMEOUT": ("timeout", "time limit"),
    "DEADLINE": ("timeout", "deadline"),
    "PREEMPTED": ("preempted", "preempted"),
    "NODE_FAIL": ("node", "its node failed"),
    "BOOT_FAIL": ("node", "its node failed to boot"),
    "CANCELLED": ("cancelled", "its job was cancelled"),
}
_SAID: dict[type[BaseException], str] = {
    ConfigError: "data",
    DivergedError: "diverged",
    StaleError: "stale",
}
"""Exceptions whose text is the whole reason -> class."""


def own_job() -> str | None:
    """The id of the Slurm job that this worker runs in. None outside our jobs, also in a shell that
    has Slurm's variables (salloc)."""
    under_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    return environment.current().id if under_slurm else None


def why_stopped(stop: BaseException) -> tuple[str, str]:
    """(class, reason) of a run that was told to stop and stays resumable.

    submitit raises SystemExit once it has queued the job again (time limit or preemption). Anything
    else is a signal; if Slurm is ending the job, the job's log says why a moment later.
    """
    if isinstance(stop, SystemExit):
        return "requeued", "time limit or preemption; queued again"
    job, patience = own_job(), time.monotonic() + LOG_S
    while job:
        log = joblog.path(Path(os.environ["SUBMITIT_FOLDER"]), job)
        told = joblog.verdict(joblog.tail(log))
        if told:
            return told
        if cluster.jobs([job])[job].state == "RUNNING" or time.monotonic() > patience:
            break
        time.sleep(0.1)
    return "stopped", f"stopped by {stop}"


def classify(error: BaseException) -> tuple[str, str]:
    """(class, one-line reason) of the exception that ended a run."""
    name = type(error).__name__
    text = " ".join(str(error).split()) or name
    from submitit.core.utils import UncompletedJobError  # imports numpy

    for told, kind in (_SAID | {UncompletedJobError: "timeout"}).items():
        if isinstance(error, told):
            return kind, text
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk", f"no space left to write {error.filename or 'the run folder'}"
    if isinstance(error, FileNotFoundError | PermissionError):
        return "data", f"{name}: {text[:300]}"
    known = joblog.complaint(f"torch.{name}: {text}")
    if known:
        return known[0], f"{name}: {text[:300]}"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno})" if last else ""
    return "bug", f"{name}: {text[:300]}{where}"


def of_job(state: JobState, log: Path) -> tuple[str, str] | None:
    """(class, reason) of how a job ended whose process recorded nothing; None if unknown."""
    text = joblog.tail(log)
    known = ("memory", "out of memory (host)") if state.oom else joblog.verdict(text)
    known = known or _ENDS.get(state.state)
    if known or state.state != "FAILED":
        return known
    said = f": {last}" if (last := joblog.last_line(text)) else ""
    if state.exit_code is None:  # plug-ins report none: it may have been killed
        return "killed", f"its process ended without a result{said}"
    code, signal = state.exit_code, state.signal or 0
    signal = signal or max(0, code - 128)  # srun reports a killed task as 128 + its signal
    if signal in (9, 12, 15):  # killed by hand, or stopped before it handled signals
        return "killed", f"its process was killed (signal {signal})"
    how = f"signal {signal}" if signal else f"exit code {code}"
    return "bug", f"its process ended by {how}{said}"
