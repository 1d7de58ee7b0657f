"""Why a run failed: a class a program can act on, and one line a person can read."""

from __future__ import annotations

import errno
import traceback

from core.config import ConfigError
from slurm import cluster, environment

KINDS = ("input", "oom", "diverged", "disk", "bug", "lost")
"""Classes of failure. `lost` is found later, by whoever takes the run over."""


def why_stopped(stop: BaseException) -> tuple[str, str]:
    """(class, reason) of a run that was told to stop and stays resumable.

    submitit leaves by SystemExit once it has queued the job again (time limit or preemption);
    any other way out is a signal. Slurm, asked as a hint, tells a cancelled job from others.
    """
    if isinstance(stop, SystemExit):
        return "requeued", "time limit or preemption; queued again"
    job = environment.current().id
    if job and cluster.jobs([job])[job].state == "CANCELLED":
        return "cancelled", "cancelled (scancel)"
    return "stopped", f"stopped by {stop}"


def classify(error: BaseException) -> tuple[str, str]:
    """(class, one-line reason) of the exception that ended a run."""
    name = type(error).__name__
    text = " ".join(str(error).split()) or name
    if isinstance(error, ConfigError):
        return "input", text
    if name == "DivergedError":
        return "diverged", text
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "oom", f"{name}: {text[:300]}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk", f"no space left to write {error.filename or 'the run folder'}"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno})" if last else ""
    return "bug", f"{name}: {text[:300]}{where}"
