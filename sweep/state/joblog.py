"""The log of a Slurm job, and what Slurm itself wrote there about how the job ended.

Slurm's daemons on the node write to the job's stderr. That needs no accounting, does not lag, and
is still there when Slurm has forgotten the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from core.store.files import exists, read_end

START = "epsweep: start"
"""Prefix of the first line that the batch script writes whenever Slurm starts or restarts it."""
TAIL = 64 * 1024
"""Maximum number of bytes to read from the end of a log."""

_SLURM = (
    ("memory", r"oom[-_]kill|OOM Killed|exceeded (\w+ )*memory limit", "out of memory (host)"),
    ("timeout", r"CANCELLED AT \S+ DUE TO TIME LIMIT", "time limit"),
    ("preempted", r"CANCELLED AT \S+ DUE TO PREEMPTION", "preempted"),
    ("node", r"CANCELLED AT \S+ DUE TO NODE FAILURE", "its node failed"),
    ("requeued", r"CANCELLED AT \S+ DUE TO JOB REQUEUE", "requeued"),
    # Only for the whole job: Slurm reports a step as "cancelled" at any SIGTERM, also at the start
    # of a preemption.
    ("cancelled", r"JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*", "cancelled (scancel)"),
)
_PROGRAMS = (
    # Each of CUDA's libraries has its own wording and type of exception for a full GPU.
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
    """The job's stderr, or its stdout if the profile joins the two."""
    errors = logs / f"{job}_0_log.err"
    return errors if exists(errors) else logs / f"{job}_0_log.out"


def tail(log: Path) -> str:
    """What the job wrote since its last (re)start, at most 64 KiB; '' if there is no log."""
    text = read_end(log, TAIL).decode(errors="replace")
    return text[max(0, text.rfind(START)) :]


def verdict(text: str) -> tuple[str, str] | None:
    """(class, reason) of how the job ended according to its log; None if the log does not say."""
    return _first(_SLURM, text) or complaint(text)


def complaint(text: str) -> tuple[str, str] | None:
    """(class, reason) of a known error in a program's log or in an exception's text, or None."""
    return _first(_PROGRAMS, text)


def _first(words: Iterable[tuple[str, str, str]], text: str) -> tuple[str, str] | None:
    found = ((kind, reason) for kind, pattern, reason in words if re.search(pattern, text))
    return next(found, None)


def last_line(text: str) -> str:
    """The last line of a log that is neither empty nor Slurm's or ours, at most 300 characters; ''
    if there is none."""
    lines = [line.strip() for line in text.splitlines()]
    said = [ln for ln in lines if ln and not ln.startswith((START, "srun: ", "slurmstepd"))]
    return said[-1][:300] if said else ""
