"""Cancelling runs: a request in each run's folder, and the end of jobs that have no other runs.

A worker notices the request at its next heartbeat, stops that run and goes on with the next one; a
run that has not started does not start. `sweep retry` withdraws the request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from core.store.claims import now
from core.store.files import remove
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.json_files import write_json
from sweep.grid import Run
from sweep.state.plan import Plan, State
from sweep.submit import backends

CANCELLABLE = frozenset({State.PENDING, State.RUNNING})


def cancel(seen: Plan, store: Store) -> list[Run]:
    """Ask every pending, running or hung run of the plan to stop; returns them. Raises
    ClusterError if the scheduler refuses; the requests stay and are obeyed all the same."""
    runs = [s.run for s in seen.statuses if s.state in CANCELLABLE or s.kind == "hung"]
    for run in runs:
        write_json(store.run(run.id).cancel, {"time": now()})
    end_jobs(runs, seen, store)
    return runs


def withdraw(runs: Sequence[Run], store: Store) -> None:
    """Withdraw requests to stop, so that the runs can start again."""
    for run in runs:
        remove(store.run(run.id).cancel)


def end_jobs(runs: Sequence[Run], seen: Plan, store: Store) -> None:
    """End the queued jobs whose only unfinished runs are these."""
    meant = {run.id for run in runs}
    members: dict[str, set[str]] = defaultdict(set)
    for run_id, promise in seen.promised.items():
        if promise.name and (run_id in meant or not _ended(store.run(run_id), promise.after)):
            members[promise.job].add(run_id)
    whole = {job for job, ids in members.items() if ids <= meant}
    each = {item.job: item for item in seen.promised.values() if item.job in whole}
    backends.stop([item for item in backends.states(each).values() if item.live])


def _ended(run: RunDir, after: int) -> bool:
    """Whether a run is done, failed or cancelled since a submission that came after `after`
    attempts."""
    current = find_holder(run)
    ended = current and (current.given_up or current.outcome == "done")
    return bool(current and ended and current.attempt > after)
