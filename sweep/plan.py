"""What would run: each run of a grid beside what its folder says about it. Touches nothing.

A run folder is the truth about a run; a submission only says that a job is on its way to one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from core.claims import Holder, holder
from core.rundir import RunDir, Store, read_json
from sweep.grid import Run


class State(StrEnum):
    """Where a run stands. Only the launchable ones are submitted by `sweep launch`."""

    NEW = "new"
    PENDING = "pending"  # submitted, not started
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped or lost part-way; goes on from its checkpoint
    UNEVALUATED = "unevaluated"  # trained, but the grid asks for an evaluation it lacks
    FAILED = "failed"
    CANCELLED = "cancelled"
    DONE = "done"


LAUNCHABLE = frozenset({State.NEW, State.INTERRUPTED, State.UNEVALUATED})
REPAIRABLE = frozenset({State.FAILED, State.CANCELLED})


class Pending(NamedTuple):
    """A submission's promise to start a run: its job, and the attempts made before it."""

    job: str
    after: int


@dataclass(frozen=True)
class Status:
    """One run and what is known about it; epoch counts finished epochs."""

    run: Run
    state: State
    epoch: int = 0
    share: float = 0.0
    phase: str = ""
    images_per_s: float = 0.0
    attempts: int = 0
    seconds: float = 0.0
    """Training seconds, known once done."""
    reason: str | None = None
    kind: str | None = None
    job: str | None = None

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
            "reason": self.reason,
            "kind": self.kind,
            "job": self.job,
            "attempts": self.attempts,
            "config": self.run.config.to_dict(),
        }


@dataclass(frozen=True)
class Plan:
    """Every run of a grid with its status, in grid order."""

    statuses: Sequence[Status]
    counts: Counter[State] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(s.state for s in self.statuses))

    def of(self, states: Collection[State]) -> list[Run]:
        """The runs in one of `states`."""
        return [status.run for status in self.statuses if status.state in states]

    def to_dict(self) -> dict[str, Any]:
        """The shape of `plan --json` and `status --json`."""
        counts = {str(state): self.counts[state] for state in State if self.counts[state]}
        return {"counts": counts, "runs": [status.to_dict() for status in self.statuses]}


def make(
    runs: Iterable[Run], store: Store, *, pending: Mapping[str, Pending] | None = None
) -> Plan:
    """Look at every run's folder. `pending`: run id -> what a live submission promises."""
    promised = pending or {}
    return Plan([look(run, store.run(run.id), promised.get(run.id)) for run in runs])


def look(run: Run, folder: RunDir, pending: Pending | None = None) -> Status:
    """The status of one run, from its folder: result, else claim, else nothing yet."""
    current = holder(folder)
    if current is None and folder.cancel.exists():
        return Status(run, State.CANCELLED, reason="cancelled before it started")
    if current is None and pending is None:
        return Status(run, State.NEW)
    if current is None:
        return Status(run, State.PENDING, job=pending.job if pending else None)
    if current.live:
        return _seen(run, State.RUNNING, current)
    result = read_json(folder.result)
    if result is not None and {item.id for item in run.evals} <= set(result["evals"]):
        return Status(
            run,
            State.DONE,
            epoch=run.config.epochs,
            share=1.0,
            attempts=current.attempt,
            seconds=result["seconds"],
        )
    if folder.cancel.exists():
        return _seen(run, State.CANCELLED, current)
    outcome = current.info.get("outcome")
    ended = outcome in ("failed", "cancelled")
    if pending and (current.attempt <= pending.after or not ended):
        return _seen(run, State.PENDING, current)
    if outcome == "failed":
        return _seen(run, State.FAILED, current)
    if outcome == "cancelled":
        return _seen(run, State.CANCELLED, current)
    if result is not None:
        return _seen(run, State.UNEVALUATED, current)
    return _seen(run, State.INTERRUPTED, current)


def _seen(run: Run, state: State, current: Holder) -> Status:
    progress = current.info.get("progress") or {}
    reason = current.info.get("reason")
    if state is State.INTERRUPTED and current.info.get("outcome") is None:
        reason = "its process ended without a word (killed, or its node was lost)"
    return Status(
        run,
        state,
        epoch=progress.get("epoch", run.config.epochs if "share" in progress else 0),
        share=progress.get("share", 0.0),
        phase=progress.get("phase", ""),
        images_per_s=progress.get("images_per_s", 0.0),
        attempts=current.attempt,
        reason=reason,
        kind=current.info.get("kind"),
        job=current.info.get("job"),
    )


def as_json(plan: Plan, **more: Any) -> str:
    """One JSON object, indented by one so that a person can read it too."""
    return json.dumps({**more, **plan.to_dict()}, indent=1)
