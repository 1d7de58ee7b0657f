"""What would run: each run of a grid beside what its folder says about it. Touches nothing.

A run folder is the truth about a run; a submission only says that a job is on its way to one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from core.data.digests import Known, recorded
from core.data.inputs import Sources
from core.store import damage
from core.store.claims import Holder, holder
from core.store.folders import RunDir, Store, exists, read_json
from sweep.grid import Run
from sweep.state import pending, triage
from sweep.state.pending import Pending as Pending


class State(StrEnum):
    """Where a run stands. Only the launchable ones are submitted by `sweep launch`."""

    NEW = "new"
    PENDING = "pending"  # submitted, not started
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # stopped or lost part-way; goes on from its checkpoint
    UNEVALUATED = "unevaluated"  # trained, but the grid asks for an evaluation it lacks
    DAMAGED = "damaged"  # one of its files cannot be read; `retry` makes again what is lost
    STALE = "stale"  # made from images or weights that have changed since
    FAILED = "failed"
    CANCELLED = "cancelled"
    DONE = "done"


LAUNCHABLE = frozenset({State.NEW, State.INTERRUPTED, State.UNEVALUATED})
HELD = "launch failed requeued held"
"""Slurm's reason for a job that waits until somebody releases it; `launch` does."""
REPAIRABLE = frozenset({State.FAILED, State.CANCELLED, State.DAMAGED})
ON_REQUEST = frozenset({State.INTERRUPTED, State.STALE})
"""Retried only where their class is named."""


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
    left_s: float | None = None
    """Seconds left in the training or evaluation the run is in, as its process last told."""
    seconds: float = 0.0
    """How long processes have held the run so far, in all attempts."""
    gpu_seconds: float = 0.0
    reason: str | None = None
    kind: str | None = None
    job: str | None = None
    behind: frozenset[str] = frozenset()
    """Jobs of other grids that have the run before this grid's evaluations can be made of it."""

    @property
    def held(self) -> bool:
        """Whether Slurm keeps the job in the queue for ever: it could not start it on a node."""
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


@dataclass(frozen=True)
class Plan:
    """Every run of a grid with its status, in grid order."""

    statuses: Sequence[Status]
    asked: bool = False
    """Whether a scheduler was asked for it."""
    promised: Mapping[str, Pending] = field(default_factory=dict)
    """As submissions record them, also to runs that were not looked at."""
    counts: Counter[State] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(s.state for s in self.statuses))

    def of(self, states: Collection[State]) -> list[Run]:
        """The runs in one of `states`."""
        return [status.run for status in self.statuses if status.state in states]

    @property
    def behind(self) -> dict[str, frozenset[str]]:
        """By run id, the jobs of other grids that some runs have to wait for."""
        return {status.run.id: status.behind for status in self.statuses if status.behind}

    def to_dict(self) -> dict[str, Any]:
        """The shape of `plan --json` and `status --json`."""
        counts = {str(state): self.counts[state] for state in State if self.counts[state]}
        return {"counts": counts, "runs": [status.to_dict() for status in self.statuses]}


def make(
    runs: Iterable[Run],
    store: Store,
    promised: Mapping[str, Pending],
    clock: float | None = None,
    known: Known | None = None,
    ask: pending.Ask = dict,
) -> Plan:
    """Look at every run's folder. promised: run id -> what the newest submission promises. clock:
    the file server's time, by default this machine's. known: what datasets and checkpoints hold, by
    default looked at anew. ask: who tells of jobs; by default they are as promised.

    It is asked about jobs of runs that nobody works on and that have not ended, then those
    folders are looked at again: in this order a run that begins or ends meanwhile is not missed.
    """
    known = known or Known(store)
    statuses = [look(run, store.run(run.id), promised.get(run.id), clock, known) for run in runs]
    waiting = {s.run.id for s in statuses if s.state is State.PENDING and promised[s.run.id].name}
    asked = ask({key: promised[key] for key in waiting}) if waiting else {}
    seen = [
        look(s.run, store.run(s.run.id), asked[s.run.id], clock, known) if s.run.id in asked else s
        for s in statuses
    ]
    return Plan(seen, bool(asked), promised)


def beside(
    seen: Plan, others: Mapping[str, Sequence[Pending]], store: Store, clock: float | None = None
) -> Plan:
    """The same plan where jobs of other grids are on their way to its launchable runs. One that
    makes all that is asked for leaves nothing to launch; behind any other the run has to wait."""

    def again(status: Status) -> Status:
        run, jobs = status.run, others.get(status.run.id, ())
        if status.state not in LAUNCHABLE or status.kind == "hung" or not jobs:
            return status
        wanted = {item.id for item in run.evals}
        enough = [job for job in jobs if wanted <= job.evals]
        if enough:
            return look(run, store.run(run.id), enough[0], clock)
        return replace(status, behind=frozenset(job.job for job in jobs))

    again_seen = [again(status) for status in seen.statuses]
    return replace(seen, statuses=again_seen, asked=seen.asked or bool(others))


def look(
    run: Run,
    folder: RunDir,
    promise: Pending | None = None,
    clock: float | None = None,
    known: Known | None = None,
) -> Status:
    """The status of one run, from its folder: result, else claim, else what is on its way to it.
    known: what its images and weights are compared with, None for not at all."""
    current = holder(folder, clock=clock)
    if current is None:
        return _not_begun(run, folder, promise)
    if current.live:
        return _seen(run, State.RUNNING, current)
    wanted = [item.id for item in run.evals]
    damaged = damage.find(folder, wanted)
    result = None if damaged else read_json(folder.result)
    changed = None
    if known and not damaged:
        changed = known.changed(Sources.of(run.config), recorded(folder))
    if result is not None and not changed and folder.holds(result, wanted):
        return replace(_seen(run, State.DONE, current), epoch=run.config.epochs, share=1.0)
    if exists(folder.cancel):
        return _seen(run, State.CANCELLED, current)
    outcome = current.info.get("outcome")
    ended = damaged or changed or outcome in ("failed", "cancelled")
    if promise and (current.attempt <= promise.after or not ended):
        if promise.live and not _is_hung(current, promise):
            return _seen(run, State.PENDING, current, job=promise.job, reason=_waits(promise))
        if not promise.live and current.attempt <= promise.after:
            told = _not_begun(run, folder, promise)
            if told.state is State.FAILED:
                return _seen(run, told.state, current, kind=told.kind, reason=told.reason)
    if damaged:
        return _seen(
            run, State.DAMAGED, current, kind="damaged", reason=damage.described(damaged, folder)
        )
    if changed:
        return _seen(run, State.STALE, current, kind="stale", reason=changed)
    if outcome == "failed":
        return _seen(run, State.FAILED, current)
    if outcome == "cancelled":
        return _seen(run, State.CANCELLED, current)
    if result is not None:
        return _seen(run, State.UNEVALUATED, current)
    if outcome is None:
        return _silent(run, current, promise)
    return _seen(run, State.INTERRUPTED, current)


def _not_begun(run: Run, folder: RunDir, promise: Pending | None) -> Status:
    """A run that no process has begun since the promise, or ever."""
    if exists(folder.cancel):
        return Status(run, State.CANCELLED, reason="cancelled before it started")
    if promise is None:
        return Status(run, State.NEW)
    if promise.live:
        return Status(run, State.PENDING, job=promise.job, reason=_waits(promise))
    kind, reason = promise.ended() or (None, None)
    if reason:
        reason = f"its job ended before the run began: {reason}"
    if kind not in triage.DEADLY:
        return Status(run, State.NEW, job=promise.job, reason=reason)
    # Where it is no bug of the run: the set-up commands of the profile, or python itself.
    kind = "job" if kind == "bug" else kind
    return Status(run, State.FAILED, kind=kind, reason=reason, job=promise.job)


def _waits(promise: Pending) -> str | None:
    """Slurm's word for what a job waits for, after the grid whose job it is."""
    reason = promise.state.reason.replace("_", " ") if promise.state else ""
    grid = f"for {promise.grid}" if promise.grid else ""
    return ", ".join(word for word in (grid, reason) if word not in ("None", "")) or None


def _is_hung(current: Holder, promise: Pending) -> bool:
    """Whether the process that owns a run is silent although its job runs on. A job that has
    started since its last heartbeat is one that was requeued and is on its way to the run."""
    state = promise.state
    if not current.hung or current.info.get("job") != promise.job or state is None:
        return False
    return state.state == "RUNNING" and (state.started or current.beat) <= current.beat


def _silent(run: Run, current: Holder, promise: Pending | None) -> Status:
    """A run whose process ended, or fell silent, without recording how. Its job may tell."""
    kind, reason = "lost", "its process ended without a word (killed, or its node was lost)"
    if promise and promise.job == current.info.get("job") and not promise.live:
        kind, reason = promise.ended() or (kind, reason)
    elif current.hung:
        where = f"process {current.info.get('pid')} on {current.info.get('host')}"
        kind, reason = "hung", f"{current.silence}: {where} hangs, or is lost"
    state = State.FAILED if kind in triage.DEADLY else State.INTERRUPTED
    if kind == "cancelled":
        state = State.CANCELLED
    return _seen(run, state, current, kind=kind, reason=reason)


def _seen(run: Run, state: State, current: Holder, **known: Any) -> Status:
    """A status with what the newest claim tells, and what is `known` better."""
    info = current.info
    progress = info.get("progress") or {}
    told = {
        "epoch": progress.get("epoch", run.config.epochs if "share" in progress else 0),
        "share": progress.get("share", 0.0),
        "phase": progress.get("phase", ""),
        "images_per_s": progress.get("images_per_s", 0.0),
        "left_s": progress.get("left_s") if state is State.RUNNING else None,
        "attempts": current.attempt,
        "seconds": current.seconds,
        "gpu_seconds": current.gpu_seconds,
        "reason": None if state is State.DONE else info.get("reason"),
        "kind": info.get("kind"),
        "job": info.get("job"),
    }
    return Status(run, state, **told | known)


def as_json(plan: Plan, **more: Any) -> str:
    """One JSON object, indented by one so that a person can read it too."""
    return json.dumps({**more, **plan.to_dict()}, indent=1)
