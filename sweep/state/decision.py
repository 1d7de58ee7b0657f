"""The state of a run: its facts are read once, then the first rule in a table that holds decides.

The order of the rules matters: what a folder holds outweighs what a job promises, and what is
certain outweighs what is inferred. A later rule may assume that no earlier one holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.digests import Known, recorded
from core.data.inputs import Sources
from core.store import damage
from core.store.files import exists
from core.store.folders import CANCEL, RESULT, RunDir
from core.store.holder import Holder, find_holder
from sweep.grid import Run
from sweep.state import parents, triage
from sweep.state.pending import Pending
from sweep.state.status import State


@dataclass(frozen=True)
class Facts:
    """All that is known of one run, or of one trial of a search, at one moment."""

    epochs: int
    """Epochs of the whole training."""
    holder: Holder | None = None
    """The newest claim; None if no process ever began the run."""
    promise: Pending | None = None
    """The newest submission's, with the scheduler's answer if it was asked."""
    obstacle: str | None = None  # the run whose weights it waits for, as 'waiting for RUN'
    cancel: bool = False
    """Whether it was asked to stop. This field and those below are not read while a process
    works."""
    damaged: str | None = None
    """Which files cannot be read, as a sentence."""
    changed: str | None = None
    """What has changed in its images or weights since it ran, as a sentence."""
    result: bool = False
    """Whether it is trained and its result can be read."""
    complete: bool = False
    """Whether the result has every evaluation that the grid asks for."""

    @property
    def working(self) -> bool:
        return self.holder is not None and self.holder.live

    @property
    def outcome(self) -> str | None:
        """The outcome recorded by its last process; None if it recorded none or never began."""
        return self.holder.outcome if self.holder else None

    @property
    def untouched(self) -> bool:
        """Whether no process has begun it since the submission."""
        return self.promise is not None and self.attempts <= self.promise.after

    @property
    def attempts(self) -> int:
        return self.holder.attempt if self.holder else 0

    @property
    def awaited(self) -> bool:
        """Whether a queued or running job will begin or resume the run: it has not begun it yet, or
        the run can still continue."""
        if self.promise is None or not self.promise.live or self.hung:
            return False
        given_up = self.holder is not None and self.holder.given_up
        return self.untouched or not (self.damaged or self.changed or given_up)

    @property
    def hung(self) -> bool:
        """Whether its process gives no heartbeat although its job is running. Not if the job
        started after the last heartbeat: then it was requeued and will resume the run."""
        current, promise = self.holder, self.promise
        if not current or not promise or not current.hung or promise.state is None:
            return False
        if current.info.get("job") != promise.job or promise.state.state != "RUNNING":
            return False
        return (promise.state.started or current.beat) <= current.beat

    @property
    def stillborn(self) -> tuple[str, str] | None:
        """(class, reason) if its job ended without having begun the run, else None."""
        return self.promise.ended() if self.promise and self.untouched else None

    @property
    def job_end(self) -> tuple[str, str] | None:
        """(class, reason) if the job that had the run ended without recording an outcome."""
        current, promise = self.holder, self.promise
        if not current or self.outcome or not promise or promise.job != current.info.get("job"):
            return None
        return promise.ended()


@dataclass(frozen=True)
class Rule:
    """If `when` holds, the run is in `state`; `told`: Status fields that override the claim's."""

    when: Callable[[Facts], object]
    state: State
    told: Callable[[Facts], Mapping[str, Any]] = lambda facts: {}


def _ended(found: tuple[str, str] | None) -> dict[str, Any]:
    kind, reason = found or (None, None)
    return {"kind": kind, "reason": reason}


def _stillborn(facts: Facts) -> dict[str, Any]:
    kind, reason = facts.stillborn or (None, None)
    # A crash before the run began is a bug of the profile's setup commands or the environment.
    told = {"kind": "job" if kind == "bug" else kind, "reason": _before(reason)}
    return told if facts.holder or not facts.promise else told | {"job": facts.promise.job}


def _before(reason: str | None) -> str | None:
    return f"its job ended before the run began: {reason}" if reason else None


def _new(facts: Facts) -> dict[str, Any]:
    reason = facts.obstacle or _before((facts.stillborn or (None, None))[1])
    return {"job": facts.promise and facts.promise.job, "reason": reason}


def _pending(facts: Facts) -> dict[str, Any]:
    assert facts.promise
    return {"job": facts.promise.job, "reason": facts.obstacle or waits(facts.promise)}


def _hung(facts: Facts) -> dict[str, Any]:
    assert facts.holder
    info = facts.holder.info
    where = f"process {info.get('pid')} on {info.get('host')}"
    return {"kind": "hung", "reason": f"{facts.holder.silence}: {where} hangs or is lost"}


def _kind(found: tuple[str, str] | None) -> str:
    return found[0] if found else ""


LOST = {
    "kind": "lost",
    "reason": "its process died without recording a reason (killed, or the node was lost)",
}
RULES: Mapping[str, Rule] = {
    "a process works on it": Rule(lambda f: f.working, State.RUNNING),
    "everything the grid asks for is there": Rule(
        lambda f: f.complete and not f.changed,
        State.DONE,
        lambda f: {"epoch": f.epochs, "share": 1.0, "reason": None},
    ),
    "cancelled before any process began it": Rule(
        lambda f: f.cancel and not f.holder,
        State.CANCELLED,
        lambda f: {"reason": "cancelled before it started"},
    ),
    "asked to stop": Rule(lambda f: f.cancel, State.CANCELLED),
    "a job is on its way to it": Rule(lambda f: f.awaited, State.PENDING, _pending),
    "its job cannot even begin it": Rule(
        lambda f: _kind(f.stillborn) in triage.DEADLY, State.FAILED, _stillborn
    ),
    "no process ever began it": Rule(lambda f: not f.holder, State.NEW, _new),
    "a file cannot be read": Rule(
        lambda f: f.damaged, State.DAMAGED, lambda f: {"kind": "damaged", "reason": f.damaged}
    ),
    "its images or weights have changed": Rule(
        lambda f: f.changed, State.STALE, lambda f: {"kind": "stale", "reason": f.changed}
    ),
    "it failed": Rule(lambda f: f.outcome == "failed", State.FAILED),
    "it was cancelled": Rule(lambda f: f.outcome == "cancelled", State.CANCELLED),
    "trained, but an evaluation is missing": Rule(lambda f: f.result, State.UNEVALUATED),
    "its job ended in a way that would repeat": Rule(
        lambda f: _kind(f.job_end) in triage.DEADLY, State.FAILED, lambda f: _ended(f.job_end)
    ),
    "its job was cancelled": Rule(
        lambda f: _kind(f.job_end) == "cancelled", State.CANCELLED, lambda f: _ended(f.job_end)
    ),
    "its job ended in another way": Rule(
        lambda f: f.job_end, State.INTERRUPTED, lambda f: _ended(f.job_end)
    ),
    "its process is silent": Rule(lambda f: not f.outcome and _silent(f), State.INTERRUPTED, _hung),
    "its process is gone": Rule(lambda f: not f.outcome, State.INTERRUPTED, lambda f: LOST),
    "it was stopped part-way": Rule(lambda f: True, State.INTERRUPTED),
}
"""In order of precedence: the first that holds decides."""


def _silent(facts: Facts) -> bool:
    """Whether its process gives no heartbeat, and its job is not known to have ended."""
    current, promise = facts.holder, facts.promise
    assert current
    ended = promise and promise.job == current.info.get("job") and not promise.live
    return current.hung and not ended


def read(
    run: Run,
    folder: RunDir,
    promise: Pending | None = None,
    clock: float | None = None,
    known: Known | None = None,
) -> Facts:
    """The facts of a run. clock: the file server's time, by default this machine's. known: the
    present digests to compare its images and weights with; None for no comparison."""
    names = folder.names()
    current = find_holder(folder, clock=clock, names=names)
    if current is None:
        return unbegun(run, folder.path.parent, promise, exists(f"{folder.path}/{CANCEL}"))
    if current.live:
        return Facts(run.config.epochs, current, promise)
    wanted = run.eval_ids
    seen: dict[str, Any] = {}
    # Half of a run's files are missing until it is done. If it just ended, a node's list of the
    # folder may not yet have all of them, so then they are looked for by name.
    listed = None if current.outcome == "done" else names
    damaged = damage.find(folder, wanted, seen, current, listed)
    result = None if damaged else seen[RESULT]
    changed = None
    if known and not damaged:
        changed = known.changed(Sources.of(run.config), recorded(folder, seen))
    return Facts(
        run.config.epochs,
        current,
        promise,
        _obstacle(run, folder.path.parent),
        cancel=exists(f"{folder.path}/{CANCEL}"),
        damaged=damage.described(damaged, folder) if damaged else None,
        changed=changed,
        result=result is not None,
        complete=result is not None and folder.holds(result, wanted),
    )


def unbegun(run: Run, runs: Path, promise: Pending | None, cancel: bool = False) -> Facts:
    """The facts of a run that no process ever began. runs: the store's. cancel: as in Facts."""
    return Facts(run.config.epochs, None, promise, _obstacle(run, runs), cancel)


def _obstacle(run: Run, runs: Path) -> str | None:
    return parents.obstacle(run.config.parent, runs) if run.config.parent else None


def decide(facts: Facts) -> tuple[State, dict[str, Any]]:
    """The state that follows from the facts, and the other fields of a Status."""
    rule = next(rule for rule in RULES.values() if rule.when(facts))
    return rule.state, {**_claimed(facts, rule.state), **rule.told(facts)}


def _claimed(facts: Facts, state: State) -> dict[str, Any]:
    """The fields of a Status that the newest claim records."""
    current = facts.holder
    if current is None:
        return {}
    info = current.info
    progress = info.get("progress") or {}
    return {
        "epoch": progress.get("epoch", facts.epochs if "share" in progress else 0),
        "share": progress.get("share", 0.0),
        "phase": progress.get("phase", ""),
        "images_per_s": progress.get("images_per_s", 0.0),
        "left_s": progress.get("left_s") if state is State.RUNNING else None,
        "attempts": current.attempt,
        "seconds": current.seconds,
        "gpu_seconds": current.gpu_seconds,
        "reason": info.get("reason"),
        "kind": info.get("kind"),
        "job": info.get("job"),
    }


def waits(promise: Pending) -> str | None:
    """What a job waits for: the other grid whose job it is, if any, and the scheduler's reason."""
    reason = promise.state.reason.replace("_", " ") if promise.state else ""
    grid = f"for {promise.grid}" if promise.grid else ""
    return ", ".join(word for word in (grid, reason) if word not in ("None", "")) or None
