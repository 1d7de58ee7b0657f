"""The state of a run and what is shown of it; sweep.state.decision says how it is found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sweep.grid import Run


class State(StrEnum):
    """The state of a run. `sweep launch` submits only runs in a LAUNCHABLE state."""

    NEW = "new"
    PENDING = "pending"  # submitted, not started
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped or lost part-way; resumes from its checkpoint
    UNEVALUATED = "unevaluated"  # trained, but the grid asks for an evaluation it lacks
    DAMAGED = "damaged"  # one of its files cannot be read; `retry` redoes what is lost
    STALE = "stale"  # made from images or weights that have changed since
    FAILED = "failed"
    CANCELLED = "cancelled"
    DONE = "done"


LAUNCHABLE = frozenset({State.NEW, State.INTERRUPTED, State.UNEVALUATED})
HELD = "launch failed requeued held"
"""Slurm's reason for a job that stays queued until it is released, which `launch` does."""
REPAIRABLE = frozenset({State.FAILED, State.CANCELLED, State.DAMAGED})
ON_REQUEST = frozenset({State.INTERRUPTED, State.STALE})
"""Retried only if `--failed` names their class."""


@dataclass(frozen=True)
class Status:
    """One run and what is known about it. epoch: finished epochs. share: fraction of `phase` that
    is done."""

    run: Run
    state: State
    epoch: int = 0
    share: float = 0.0
    phase: str = ""
    images_per_s: float = 0.0
    attempts: int = 0
    left_s: float | None = None
    """Seconds left in the present phase, as last reported by its process."""
    seconds: float = 0.0
    """How long processes have held the run so far, over all attempts."""
    gpu_seconds: float = 0.0
    reason: str | None = None
    kind: str | None = None
    job: str | None = None
    behind: frozenset[str] = frozenset()
    """Jobs of other grids that must end before the evaluations of this grid can start."""

    @property
    def held(self) -> bool:
        """Whether Slurm holds the job in the queue because a node failed to start it."""
        return self.state is State.PENDING and self.reason == HELD

    def to_dict(self) -> dict[str, Any]:
        """The shape of `--json`."""
        return {
            "id": self.run.id,
            "state": str(self.state),
            "setting": self.run.setting,
            "epoch": self.epoch,
            "epochs": self.run.config.epochs,
            "share": self.share,
            "images_per_s": self.images_per_s,
            "left_s": self.left_s,
            "seconds": round(self.seconds, 1),
            "gpu_hours": round(self.gpu_seconds / 3600, 4),
            "reason": self.reason,
            "kind": self.kind,
            "job": self.job,
            "attempts": self.attempts,
            "config": self.run.config.to_dict(),
        }
