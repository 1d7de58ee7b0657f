"""Claims of other machines, and waiting for what threads and processes do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.store.folders import RunDir


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the wait timed out"
        time.sleep(0.005)


def foreign(run: RunDir, *, age: float, attempt: int = 1, **info: Any) -> Path:
    """A claim by a process of another machine, whose last heartbeat is `age` seconds old."""
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.path / f"claim-{attempt:04d}.json"
    described = {"attempt": attempt, "machine": "elsewhere", "pid": 1, "pid_start": "1"}
    path.write_text(json.dumps(described | {"outcome": None} | info))
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path
