"""Which code computed a result: commit, and a hash of uncommitted changes. Torch-free."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

from core.config.own_code import FROZEN
from core.store.json_files import read_json

UNKNOWN = "unknown"
"""Recorded if git does not answer."""
PATIENCE_S = 10


def state() -> dict[str, Any]:
    """{"commit", "dirty"}: dirty is a hash of uncommitted changes, None if there are none. Either
    is UNKNOWN if git fails or is slow. Both are None if the code is neither a checkout nor a frozen
    copy of one."""
    folder = Path(__file__).resolve().parents[2]
    frozen = read_json(folder / FROZEN)
    if frozen is not None:
        return frozen
    if not (folder / ".git").exists():
        return {"commit": None, "dirty": None}
    head = _git(folder, "rev-parse", "HEAD")
    files = _git(folder, "status", "--porcelain", "--untracked-files=all")
    edits = _git(folder, "diff", "--no-ext-diff", "--no-color", "HEAD")
    dirty: str | None = UNKNOWN
    if files is not None and edits is not None:
        dirty = hashlib.sha256(files + edits).hexdigest()[:16] if files + edits else None
    return {"commit": head.decode().strip() if head else UNKNOWN, "dirty": dirty}


def commit() -> str:
    """'abc1234' or 'abc1234 with changes', for people."""
    code = state()
    return f"{(code['commit'] or '?')[:7]}{' with changes' if code['dirty'] else ''}"


def tracked(package: Path) -> set[Path]:
    """The files of a package that git tracks; empty if it is not in a checkout, or git fails."""
    if not any((folder / ".git").exists() for folder in package.parents):
        return set()
    names = (_git(package, "ls-files", "-z") or b"").split(b"\0")
    return {package / os.fsdecode(name) for name in names if name}


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints, None if it fails. GIT_* variables are dropped: inside a git hook, GIT_DIR
    may name another repository."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=own | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=PATIENCE_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
