"""Signatures of failure (core.store.signatures) of runs as analysis has read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.runs import Run
from core.config import RunConfig
from core.store.signatures import (
    Finding,
    of_end,
    of_evaluation,
    of_training,
    standard_of,
    standards,
)


def diagnose(run: Run, standard: Run | None = None) -> list[Finding]:
    """Every signature that the run shows, in training, at its end and in its evaluations.

    standard: the standard run of the same cell, None if there is none.
    """
    rows, classes = run.epochs, run.classes
    total, other = int(run.config["epochs"]), standard.epochs if standard else None
    found = of_training(rows, total, other, classes)
    if run.result is None and run.attempts:
        last = run.attempts[-1]
        found += of_end(last.get("kind"), last.get("reason"))
    for evaluation in run.evaluations:
        if evaluation.record is not None:
            found += of_evaluation(evaluation.record, run.epsilon_g, classes)
    return found


def standard_runs(runs: Sequence[Run]) -> Mapping[str, Run]:
    """Run id -> the standard run of the same cell and seed, for attacked runs that have one."""
    configs = {run.dir.id: RunConfig.parse(run.config, where=run.dir.id) for run in runs}
    by_id = {run.dir.id: run for run in runs}
    known = standards(configs.values())
    found = {
        name: by_id.get(standard_of(config, known).id)
        for name, config in configs.items()
        if config.epsilon_g
    }
    return {name: run for name, run in found.items() if run is not None}
