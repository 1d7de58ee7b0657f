"""The circuit breaker: once several runs fail with the same traceback, the others do not begin.

Each failing run adds a file to `failures/<fingerprint>/` in the sweep's folder. Jobs look there
before they begin a run; `launch` and `retry` close the breaker again.
"""

from __future__ import annotations

import hashlib
import shutil
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.errors import DamagedError, counted
from core.store.files import present
from core.store.folders import SweepDir
from core.store.json_files import read_json, write_json

LIMIT = 3
"""How many runs must fail with the same traceback."""
SYSTEMATIC = ("bug", "data")
"""Classes of failure that other runs are likely to repeat, unlike divergence or lack of memory."""


@dataclass(frozen=True)
class Tripped:
    """Why a sweep holds back its other runs. runs: how many failed the same way."""

    runs: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{counted(self.runs, 'run')} failed alike ({self.reason}); the others are held back: "
            "fix the cause, then `sweep launch` or `sweep retry`"
        )


def note(sweep: SweepDir, run_id: str, error: BaseException, reason: str) -> None:
    """Record that a run failed with this traceback."""
    write_json(sweep.failures / _fingerprint(error) / f"{run_id}.json", {"reason": reason})


def tripped(sweep: SweepDir) -> Tripped | None:
    """A failure that at least LIMIT runs share, or None."""
    return present(partial(_tripped, sweep))  # `close` may remove the failures meanwhile


def _tripped(sweep: SweepDir) -> Tripped | None:
    for folder in sorted(sweep.failures.iterdir()):
        files = sorted(folder.glob("[!.]*.json"))
        if len(files) >= LIMIT:
            return Tripped(len(files), _reason(files[0]))
    return None


def _reason(file: Path) -> str:
    with suppress(DamagedError):
        return str((read_json(file) or {}).get("reason", "?"))
    return "?"


def close(sweep: SweepDir) -> None:
    """Let runs begin again."""
    shutil.rmtree(sweep.failures, ignore_errors=True)


def _fingerprint(error: BaseException) -> str:
    """The exception's type and the place of every frame; not its text, which may name the run."""
    frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    text = "\n".join([type(error).__name__, *frames])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
