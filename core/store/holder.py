"""Who holds a run: its newest claim as read from disk, and whether that one is alive.

A claim is live until it records an outcome, its process is gone (as far as this machine can tell)
or its heartbeat stops.
"""

from __future__ import annotations

import errno
import time
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


@dataclass(frozen=True)
class Holder:
    """The newest claim on a run, as read from disk."""

    attempt: int
    info: dict[str, Any]
    beat: float
    """When its heart last beat: the file server's time, Unix seconds."""
    age: float
    """Seconds since then, by the clock of who looks."""
    damage: DamagedError | None = None
    """Of a claim that cannot be read: nobody works by it, a living owner would have replaced it."""

    @property
    def live(self) -> bool:
        """Whether its process still works on the run, as far as can be told from here."""
        silent = self.info.get("outcome") or self.damage or self._silent
        return not silent and not self._gone

    @property
    def hung(self) -> bool:
        """Silent for long, without an outcome, though its process may still exist."""
        return not self.info.get("outcome") and not self._gone and self._silent

    @property
    def silence(self) -> str:
        """Why it counts as hung."""
        if self.age < 0:
            return f"its last heartbeat lies {-self.age:.0f} s ahead of the clock"
        return f"no heartbeat for {self.age:.0f} s"

    @property
    def _silent(self) -> bool:
        # A heartbeat far in the future (clocks differ, or a copied file) tells nothing either.
        return abs(self.age) >= self.patience

    @property
    def patience(self) -> float:
        """Seconds without a heartbeat after which it counts as silent."""
        # As its owner says: a profile sets that for jobs, not for whoever looks from outside.
        return float(self.info.get("stale_s", stale_seconds()))

    @property
    def _gone(self) -> bool:
        return "machine" in self.info and process_alive(self.info) is False

    @property
    def seconds(self) -> float:
        """How long this attempt and those before it have held the run."""
        return float(self.info.get("seconds_before", 0)) + self._held

    @property
    def gpu_seconds(self) -> float:
        """The same times the GPUs held; 0 on machines without."""
        before = float(self.info.get("gpu_seconds_before", 0))
        return before + self._held * float(self.info.get("gpus", 0))

    @property
    def _held(self) -> float:
        held = self.beat - float(self.info.get("since", self.beat))
        if self.info.get("ended"):
            # A copied file has the time of the copy; its owner told its own, in whole seconds.
            ended, started = (
                datetime.fromisoformat(self.info[key]) for key in ("ended", "started")
            )
            held = min(held, (ended - started).total_seconds() + 1)
        return max(0.0, held)


def claim_path(run: RunDir, attempt: int) -> Path:
    return run.path / f"claim-{attempt:04d}.json"


def _read(path: Path) -> tuple[float, bytes]:
    return path.stat().st_mtime, path.read_bytes()


def find_holder(run: RunDir, *, clock: float | None = None) -> Holder | None:
    """The newest claim on a run; None if it was never started."""
    attempt = newest_attempt(run.path)
    if not attempt:
        return None
    for look in range(_LOOKS):
        path = claim_path(run, attempt)
        found = present(partial(_read, path))
        if found:
            modified, text = found
            age = (time.time() if clock is None else clock) - modified
            try:
                # An empty file is a claim whose owner has not yet written its first line.
                info = parse_json(text, path, shapes.Claim) if text else {}
            except DamagedError as error:
                return Holder(attempt, {}, modified, age, error)
            return Holder(attempt, info, modified, age)
        # Superseded between the two looks. A node may list a folder as it was a minute ago, but
        # what it opens by name is there: try that too.
        attempt = max(attempt + look % 2, newest_attempt(run.path))
    raise OSError(errno.ESTALE, "the list of its files is out of date; try again", str(run.path))
