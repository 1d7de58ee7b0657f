"""What would run: each run of a grid with its state. Changes nothing on disk.

A run's folder is the truth about the run; a submission only shows that a job is on its way to it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeGuard

from core.data.digests import Known
from core.store.files import present
from core.store.folders import RunDir, Store
from sweep.grid import Run
from sweep.state import decision, pending
from sweep.state.pending import Pending as Pending
from sweep.state.status import LAUNCHABLE as LAUNCHABLE
from sweep.state.status import ON_REQUEST as ON_REQUEST
from sweep.state.status import REPAIRABLE as REPAIRABLE
from sweep.state.status import State as State
from sweep.state.status import Status as Status

WORST = (
    *(State.FAILED, State.DAMAGED, State.STALE, State.CANCELLED, State.INTERRUPTED),
    *(State.RUNNING, State.PENDING, State.UNEVALUATED, State.NEW, State.DONE),
)
"""What somebody has to look at first."""


ORDERS: dict[str, Callable[[Status], str | float]] = {
    "name": lambda status: status.run.id,
    "state": lambda status: WORST.index(status.state),
    "hours": lambda status: -status.seconds,
}


@dataclass(frozen=True)
class Plan:
    """Every run of a grid with its status, in grid order."""

    statuses: Sequence[Status]
    asked: bool = False
    """Whether a scheduler was asked."""
    promised: Mapping[str, Pending] = field(default_factory=dict)
    """Run id -> promise as recorded by submissions, also for runs that are not in `statuses`."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """Run id -> when its folder changed last, as of just before the look, for a later one; if no
    scheduler was asked about the run."""
    counts: Counter[State] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", Counter(s.state for s in self.statuses))

    @property
    def done(self) -> bool:
        """Whether every run is done."""
        return self.counts[State.DONE] == len(self.statuses)

    @property
    def exit_code(self) -> int:
        """0 if every run is done, else 1 if one failed, else 3."""
        return 0 if self.done else 1 if self.counts[State.FAILED] else 3

    @property
    def runs(self) -> list[Run]:
        return [status.run for status in self.statuses]

    def of(self, states: Collection[State]) -> list[Run]:
        """The runs in one of `states`."""
        return [status.run for status in self.statuses if status.state in states]

    def ordered(self, by: str) -> Plan:
        """The same runs by one of ORDERS; equal ones stay in the order of the grid."""
        return replace(self, statuses=sorted(self.statuses, key=ORDERS[by]))

    @property
    def behind(self) -> dict[str, frozenset[str]]:
        """Run id -> the jobs of other grids that the run has to wait for."""
        return {status.run.id: status.behind for status in self.statuses if status.behind}

    @property
    def counted(self) -> dict[str, int]:
        """State -> number of runs, for `--json`, without zeros."""
        return {str(state): self.counts[state] for state in State if self.counts[state]}


def make(
    runs: Iterable[Run],
    store: Store,
    promised: Mapping[str, Pending],
    clock: float | None = None,
    known: Known | None = None,
    ask: pending.Ask = dict,
    before: Plan | None = None,
) -> Plan:
    """The plan from every run's folder. promised: run id -> the newest submission's promise. clock:
    the file server's time, by default this machine's. known: the digests of datasets and
    checkpoints, by default read anew. ask: asks the scheduler about jobs, by default nothing.
    before: an earlier plan, whose finished runs are not looked at again unless their folders are
    gone, nor those that were given up while nothing in their folders changes.

    The scheduler is asked only about jobs of pending runs, and their folders are read again after
    its answer, so that a run that begins or ends meanwhile is not missed.
    """
    known, begun = known or Known(store), store.run_ids()
    earlier = {status.run.id: status for status in (before.statuses if before else ())}
    changes: dict[str, int] = {}

    def look_at(run: Run, promise: Pending | None) -> Status:
        if run.id in begun:
            seen = earlier.get(run.id)
            if seen and seen.state is State.DONE:
                return seen
            if before:  # whatever a process writes into a folder, it renames to its place there
                changes[run.id] = present(partial(_change, f"{store.runs}/{run.id}")) or 0
                if _settled(seen, promise) and changes[run.id] == before.changes.get(run.id):
                    return seen
            return look(run, store.run(run.id), promise, clock, known)
        if promise or run.config.parent:
            return _status(run, decision.unbegun(run, store.runs, promise))
        return Status(run, State.NEW)  # most of 100,000 runs are

    statuses = [look_at(run, promised.get(run.id)) for run in runs]
    waiting = {s.run.id for s in statuses if s.state is State.PENDING and promised[s.run.id].name}
    asked = ask({key: promised[key] for key in waiting}) if waiting else {}
    if asked:
        begun = store.run_ids()
        statuses = [look_at(s.run, asked[s.run.id]) if s.run.id in asked else s for s in statuses]
        changes = {name: change for name, change in changes.items() if name not in asked}
    return Plan(statuses, bool(asked), promised, changes)


def _change(folder: str) -> int:
    return os.stat(folder).st_mtime_ns


def _settled(seen: Status | None, promise: Pending | None) -> TypeGuard[Status]:
    """Whether the run's folder alone decides that it was given up: no job is on its way to it."""
    if seen is None or seen.state not in (State.FAILED, State.CANCELLED):
        return False
    return seen.attempts > (promise.after if promise else 0)


def beside(
    seen: Plan, others: Mapping[str, Sequence[Pending]], store: Store, clock: float | None = None
) -> Plan:
    """The plan, updated for jobs of other grids that will do its launchable runs. others: run
    id -> those jobs. A run is pending if one of them does all its evaluations; otherwise it has to
    wait for them, see Status.behind."""

    if not others:
        return seen

    def again(status: Status) -> Status:
        run, jobs = status.run, others.get(status.run.id, ())
        if status.state not in LAUNCHABLE or status.kind == "hung" or not jobs:
            return status
        wanted = {*run.eval_ids}
        enough = [job for job in jobs if wanted <= job.evals]
        if enough:
            return look(run, store.run(run.id), enough[0], clock)
        return replace(status, behind=frozenset(job.job for job in jobs))

    again_seen = [again(status) for status in seen.statuses]
    return replace(seen, statuses=again_seen, asked=True)


def look(
    run: Run,
    folder: RunDir,
    promise: Pending | None = None,
    clock: float | None = None,
    known: Known | None = None,
) -> Status:
    """The status of one run, see sweep.state.decision. Parameters as in `decision.read`."""
    return _status(run, decision.read(run, folder, promise, clock, known))


def _status(run: Run, facts: decision.Facts) -> Status:
    state, told = decision.decide(facts)
    return Status(run, state, **told)


def as_json(plan: Plan, **more: Any) -> Iterator[str]:
    """The output of `plan --json` and `status --json` in pieces: one JSON object, with a line for
    each run. In one piece it would take 1.7 GB of memory for 100,000 runs."""
    yield json.dumps({**more, "counts": plan.counted}, indent=1).removesuffix("\n}")
    before = ',\n "runs": [\n  '
    for status in plan.statuses:
        yield before + json.dumps(status.to_dict())
        before = ",\n  "
    yield "\n ]\n}\n" if plan.statuses else ',\n "runs": []\n}\n'
