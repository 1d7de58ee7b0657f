"""The log of a Slurm job, and what Slurm itself wrote there about how the job ended.

Slurm's daemons on the node write into the job's own stderr. That needs no accounting, does not lag,
and is still there when Slurm has long forgotten the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from core.store.files import exists, read_end

START = "epsweep: start"
"""Begins a line that the batch script writes first, each time Slurm starts or restarts the job."""
TAIL = 64 * 1024
"""Bytes read at most from the end of a log."""

_SLURM = (
    ("memory", r"oom[-_]kill|OOM Killed|exceeded (\w+ )*memory limit", "out of memory (host)"),
    ("timeout", r"CANCELLED AT \S+ DUE TO TIME LIMIT", "time limit"),
    ("preempted", r"CANCELLED AT \S+ DUE TO PREEMPTION", "preempted"),
    ("node", r"CANCELLED AT \S+ DUE TO NODE FAILURE", "its node failed"),
    ("requeued", r"CANCELLED AT \S+ DUE TO JOB REQUEUE", "requeued"),
    # Of the whole job: a step is "cancelled" by any SIGTERM, also when a preemption begins.
    ("cancelled", r"JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*", "cancelled (scancel)"),
)
_PROGRAMS = (
    # CUDA's libraries have words of their own for a full GPU, in exceptions of many types.
    (
        "oom",
        r"CUDA out of memory|CUDA error: out of memory|torch\.OutOfMemoryError"
        r"|CU[A-Z]+_STATUS_ALLOC_FAILED",
        "out of memory (GPU)",
    ),
    ("memory", r"MemoryError|[Cc]an(no|')t allocate memory", "out of memory (host)"),
    ("disk", r"No space left on device|Disk quota exceeded", "no space left"),
    (
        "node",
        r"uncorrectable ECC|CUDA-capable device|GPU is lost|hardware stack error"
        r"|Stale file handle|Input/output error",
        "a GPU or file system of its node failed",
    ),
)


def path(logs: Path, job: str) -> Path:
    """The job's stderr, or its stdout where the profile joins the two."""
    errors = logs / f"{job}_0_log.err"
    return errors if exists(errors) else logs / f"{job}_0_log.out"


def tail(log: Path) -> str:
    """What the job's present start wrote, at most the last 64 KiB; '' if there is no log."""
    text = read_end(log, TAIL).decode(errors="replace")
    return text[max(0, text.rfind(START)) :]


def verdict(text: str) -> tuple[str, str] | None:
    """(class, reason) of the end that a log tells of, None where it says nothing of the kind."""
    return _first(_SLURM, text) or complaint(text)


def complaint(text: str) -> tuple[str, str] | None:
    """(class, reason) of what a program says of itself: in its log, or in an exception."""
    return _first(_PROGRAMS, text)


def _first(words: Iterable[tuple[str, str, str]], text: str) -> tuple[str, str] | None:
    found = ((kind, reason) for kind, pattern, reason in words if re.search(pattern, text))
    return next(found, None)


def last_line(text: str) -> str:
    """The last line of a log that says something, without Slurm's own."""
    lines = [line.strip() for line in text.splitlines()]
    said = [ln for ln in lines if ln and not ln.startswith((START, "srun: ", "slurmstepd"))]
    return said[-1][:300] if said else ""
