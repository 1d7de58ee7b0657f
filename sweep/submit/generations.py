"""Runs that wait for each other: queued one generation after another, behind their parents' jobs.

Workers on this machine do not need this: they share one manifest and see which runs are ready.
"""

from __future__ import annotations

from dataclasses import replace

from sweep.state import parents, pending
from sweep.submit import backends
from sweep.submit.backend import Started
from sweep.submit.order import Runs

WAITING = "the runs that they wait for are not submitted yet"


def start(order: Runs) -> Started[Runs]:
    """As `Backend.start`, with the same exceptions, for runs that may wait for each other."""
    backend = backends.of(order.profile.executor)
    if not backend.queued:
        return backend.start(order)
    whole = Started[Runs]()
    ready, *others = parents.generations(order.runs, order.store)
    if ready:
        whole = backend.start(replace(order, runs=ready))
    for runs in others:
        # By now the jobs of the previous generation are recorded.
        promised = pending.promises(order.sweep)
        jobs = parents.arrays(runs, promised, backends.states)
        behind = {
            run.id: {*jobs.get(run.id, ()), *order.behind.get(run.id, ())}
            for run in runs
            if run.id in jobs
        }
        late = [run for run in runs if run.id not in jobs]
        some = Started[Runs]()
        if behind:
            able = [run for run in runs if run.id in jobs]
            some = backend.start(replace(order, runs=able, behind=behind))
        left = [*whole.left, *some.left, *([replace(order, runs=late)] if late else [])]
        cap = whole.cap or some.cap or (WAITING if late else "")
        whole = Started({**whole.arrays, **some.arrays}, left, cap)
    return whole
