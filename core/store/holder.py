"""Who holds a run: its newest claim as read from disk, and whether its process is alive.

A claim is live until it records an outcome, its process is gone (as far as this machine can tell)
or its heartbeat stops.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from core.config.settings import stale_seconds
from core.errors import DamagedError
from core.store import shapes
from core.store.fence import newest_attempt
from core.store.files import present
from core.store.folders import RunDir
from core.store.json_files import parse_json
from core.store.processes import process_alive

_LOOKS = 8
GIVEN_UP = frozenset({"failed", "cancelled"})


@dataclass(frozen=True)
class Holder:
    """The newest claim on a run, as read from disk."""

    attempt: int
    info: dict[str, Any]
    beat: float
    """Time of the last heartbeat in Unix seconds, by the file server's clock."""
    age: float
    """Seconds since then, by the reader's clock."""
    damage: DamagedError | None = None
    """Set if the claim cannot be read; it is then not live, since an owner would replace it."""

    @property
    def outcome(self) -> str | None:
        """How its process ended: done, failed, cancelled, interrupted or lost; None if it recorded
        nothing."""
        found: str | None = self.info.get("outcome")
        return found

    @property
    def given_up(self) -> bool:
        """Whether it ended in such a way that only a retry begins the run again."""
        return self.outcome in GIVEN_UP

    @property
    def live(self) -> bool:
        """Whether its process still works on the run, as far as this machine can tell."""
        silent = self.outcome or self.damage or self._silent
        return not silent and not self._gone

    @property
    def hung(self) -> bool:
        """Whether it has been silent for too long without an outcome; its process may exist."""
        return not self.outcome and not self._gone and self._silent

    @property
    def silence(self) -> str:
        """Why it counts as hung."""
        if self.age < 0:
            return f"its last heartbeat is {-self.age:.0f} s in the future"
        return f"no heartbeat for {self.age:.0f} s"

    @property
    def _silent(self) -> bool:
        # A heartbeat far in the future (clocks differ, or a copied file) proves nothing either.
        return abs(self.age) >= self.patience

    @property
    def patience(self) -> float:
        """Seconds without a heartbeat after which it counts as silent."""
        # The owner's own setting: the reader may run without the job's profile, which sets it.
        return float(self.info["stale_s"] if "stale_s" in self.info else stale_seconds())

    @property
    def _gone(self) -> bool:
        return "machine" in self.info and process_alive(self.info) is False

    @property
    def seconds(self) -> float:
        """Seconds for which this attempt and all before it have held the run."""
        return float(self.info.get("seconds_before", 0)) + self._held

    @property
    def gpu_seconds(self) -> float:
        """These seconds times the number of GPUs occupied; 0 without GPUs."""
        before = float(self.info.get("gpu_seconds_before", 0))
        return before + self._held * float(self.info.get("gpus", 0))

    @property
    def _held(self) -> float:
        held = self.beat - float(self.info.get("since", self.beat))
        if self.info.get("ended"):
            # By the times that its owner has recorded, in whole seconds: file times change with a
            # copy.
            ended, started = (
                datetime.fromisoformat(self.info[key]) for key in ("ended", "started")
            )
            held = min(held, (ended - started).total_seconds() + 1)
        return max(0.0, held)


def claim_path(run: RunDir, attempt: int) -> Path:
    return run.path / _name(attempt)


def _name(attempt: int) -> str:
    return f"claim-{attempt:04d}.json"


def _read(path: str) -> tuple[float, bytes]:
    with open(path, "rb", buffering=0) as file:
        return os.fstat(file.fileno()).st_mtime, file.readall()


def find_holder(
    run: RunDir, *, clock: float | None = None, names: Iterable[str] | None = None
) -> Holder | None:
    """The newest claim on a run; None if it was never started. names: those in the folder, if the
    caller has just listed it."""
    attempt = newest_attempt(run.path, names)
    if not attempt:
        return None
    for look in range(_LOOKS):
        path = f"{run.path}/{_name(attempt)}"
        found = present(partial(_read, path))
        if found:
            modified, text = found
            age = (time.time() if clock is None else clock) - modified
            try:
                # The file is empty until its owner has written it for the first time.
                info = parse_json(text, path, shapes.Claim) if text else {}
            except DamagedError as error:
                return Holder(attempt, {}, modified, age, error)
            return Holder(attempt, info, modified, age)
        # A new attempt began meanwhile. A node's list of a folder may be a minute old although
        # newer files can be opened by name, so every second look tries the next number.
        attempt = max(attempt + look % 2, newest_attempt(run.path))
    raise OSError(errno.ESTALE, "this node's list of files is outdated; try again", str(run.path))
