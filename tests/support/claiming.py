"""Claims of other machines."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from core.store.folders import RunDir


def foreign(run: RunDir, *, age: float, attempt: int = 1, **info: Any) -> Path:
    """A claim by a process of another machine, whose last heartbeat is `age` seconds old."""
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.path / f"claim-{attempt:04d}.json"
    described = {"attempt": attempt, "machine": "elsewhere", "pid": 1, "pid_start": "1"}
    path.write_text(json.dumps(described | {"outcome": None} | info))
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path
