"""Which code computed a result: commit, and a hash of uncommitted changes. Torch-free."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from pathlib import Path
from typing import Any

from core.rundir import read_json

FROZEN = "frozen.json"
"""Beside the packages of a frozen copy: the state they were copied in."""


def state() -> dict[str, Any]:
    """{"commit", "dirty"}: None, None where the code is neither a checkout nor a frozen copy."""
    folder = Path(__file__).resolve().parent.parent
    frozen = read_json(folder / FROZEN)
    if frozen is not None:
        return frozen
    if not (folder / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=all")
    changes += _git(folder, "diff", "HEAD")
    dirty = hashlib.sha256(changes.encode()).hexdigest()[:16] if changes else None
    return {"commit": _git(folder, "rev-parse", "HEAD").strip() or None, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout
    return ""
