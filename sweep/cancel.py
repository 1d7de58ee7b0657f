"""Cancelling runs: a request in each run's folder, and scancel for jobs that would do nothing else.

A worker notices the request at its next heartbeat, stops that run where it is and goes on with the
next one; a run that has not started is not started. `sweep retry` withdraws the request.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from core.claims import now
from core.rundir import Store, SweepDir, write_json
from slurm import cluster
from sweep import submit
from sweep.grid import Run
from sweep.plan import Plan, State

CANCELLABLE = frozenset({State.PENDING, State.RUNNING})


def cancel(seen: Plan, sweep: SweepDir, store: Store) -> list[Run]:
    """Ask every pending or running run of the plan to stop; returns them. Raises ClusterError
    where Slurm refuses; the requests stay and are obeyed all the same."""
    runs = seen.of(CANCELLABLE)
    for run in runs:
        write_json(store.run(run.id).cancel, {"time": now()})
    cluster.cancel(_whole_jobs(runs, sweep))
    return runs


def withdraw(runs: Sequence[Run], store: Store) -> None:
    """Let runs start again."""
    for run in runs:
        store.run(run.id).cancel.unlink(missing_ok=True)


def _whole_jobs(runs: Sequence[Run], sweep: SweepDir) -> list[str]:
    """Slurm jobs all of whose runs are cancelled; a job with other runs to do goes on."""
    asked = {run.id for run in runs}
    members: dict[str, set[str]] = defaultdict(set)
    for run_id, promise in submit.pending(sweep, executor="slurm").items():
        members[promise.job].add(run_id)
    return [job for job, ids in members.items() if ids <= asked]
